"""The eight tools as a real MCP server: streamable HTTP on loopback, or stdio.

Every tool takes its own argument and `as_of`, the ISO time to answer as of, which an agent binds to the alert's time.
Answers are plain text. The server keeps no session, so that many calls at once cost no more than their queries.
Called by the command line and by tests; who the callers are and what they conclude is not its business.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import anyio
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, TextContent, Tool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from socadapter_api.errors import InsecureBind, SpecError
from socadapter_api.trajectory import CallOutcome
from socadapter_range.faults import GARBAGE_TEXT, Faults
from socadapter_range.toolbox import RangeToolbox
from socadapter_range.tools import ToolSpec

AS_OF: Final = "as_of"
PATH: Final = "/mcp"
MAX_FAULTS_BYTES: Final = 16_384


def _tool(spec: ToolSpec) -> Tool:
    properties = spec.parameters["properties"] | {AS_OF: {"type": "string"}}
    return Tool(name=spec.name, description=spec.description, input_schema=spec.parameters | {"properties": properties})


def tool_server(toolbox: RangeToolbox, faults: Faults) -> Server[Any]:
    """The MCP server that answers from `toolbox`, as badly as `faults` says."""
    tools = ListToolsResult(tools=[_tool(spec) for spec in toolbox.specs])

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return tools

    async def call_tool(_context: Any, params: CallToolRequestParams) -> CallToolResult:
        fault = faults.of(params.name)
        if fault.hang:
            await anyio.sleep_forever()
        if fault.latency_s:
            await anyio.sleep(fault.latency_s)
        if fault.outage:
            return _result("backend unavailable", is_error=True)
        return _result(GARBAGE_TEXT) if fault.garbage else _answer(toolbox, params)

    return Server("socadapter-range", on_list_tools=list_tools, on_call_tool=call_tool)


def _answer(toolbox: RangeToolbox, params: CallToolRequestParams) -> CallToolResult:
    args = dict(params.arguments or {})
    moment = args.pop(AS_OF, None)
    try:
        as_of = None if moment is None else datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return _result(f"error: {AS_OF} {moment!r} is not an ISO time", is_error=True)
    answer = toolbox.answer(params.name, args, as_of)
    return _result(answer.text, is_error=answer.outcome is not CallOutcome.OK)


def _result(text: str, *, is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=is_error)


def http_app(toolbox: RangeToolbox, faults: Faults, *, admin: bool = False) -> Starlette:
    """The server as an ASGI application. With `admin`, ``GET`` and ``PUT /faults`` read and set the faults."""

    async def switch(request: Request) -> Response:
        if request.method == "PUT":
            body = await request.body()
            try:
                if len(body) > MAX_FAULTS_BYTES:
                    raise SpecError(f"{len(body)} bytes are more than the {MAX_FAULTS_BYTES} that faults may take")
                faults.replace(Faults.parse(body))
            except SpecError as error:
                return Response(f"{error}\n", status_code=422)
        return Response(faults.as_json(), media_type="application/json")

    routes = [Route("/faults", switch, methods=["GET", "PUT"])] if admin else []
    return tool_server(toolbox, faults).streamable_http_app(
        streamable_http_path=PATH, json_response=True, stateless_http=True, custom_starlette_routes=routes
    )


@asynccontextmanager
async def running(toolbox: RangeToolbox, faults: Faults, *, port: int = 0, admin: bool = False) -> AsyncIterator[str]:
    """Serves on loopback as long as the context lasts; gives the URL. Port 0 takes a free one."""
    with _bound("127.0.0.1", port) as listener:
        server = uvicorn.Server(_config(http_app(toolbox, faults, admin=admin)))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield _url(listener)
        finally:
            server.should_exit = True
            await serving


def serve_http(
    toolbox: RangeToolbox, faults: Faults, *, host: str, port: int, admin: bool, ready_file: Path | None
) -> None:
    """Serves until interrupted. Prints the URL, and writes it to `ready_file` once connections are accepted.

    Raises:
        InsecureBind: `host` is not a loopback address; the tools ask for no token.
        SpecError: the port is taken.
    """
    if not _is_loopback(host):
        raise InsecureBind(f"the range's tools ask for no token and are served on loopback only, not on {host!r}")
    with _bound(host, port) as listener:
        url = _url(listener)
        print(url, flush=True)
        if ready_file is not None:
            draft = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
            draft.write_text(url, encoding="utf-8")
            draft.replace(ready_file)
        uvicorn.Server(_config(http_app(toolbox, faults, admin=admin))).run(sockets=[listener])


def serve_stdio(toolbox: RangeToolbox, faults: Faults) -> None:
    """Serves one client over this process's standard input and output."""
    server = tool_server(toolbox, faults)

    async def run() -> None:
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    print("serving on stdio", file=sys.stderr, flush=True)
    anyio.run(run)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it every call takes 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SpecError(f"cannot serve on {host} port {port}: {error}; take port 0 for a free one") from error
    # It listens from here on: a caller that connects before the application is up waits instead of being refused.
    listener.listen(1024)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=1)
