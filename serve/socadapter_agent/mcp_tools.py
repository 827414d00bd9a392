"""Tools over MCP: the live side of an investigation.

One client session per server, shared by all investigations; calls are multiplexed over it. A server that restarts is
reconnected on the next call. Arguments that the spec binds (such as the time to answer as of) are filled in here and
hidden from the model.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import CallToolResult, TextContent, Tool

from socadapter_agent.tools import ToolAnswer, ToolSpec
from socadapter_api.case import Alert
from socadapter_api.errors import SpecError, ToolGarbage, ToolOutage
from socadapter_api.model import parse_duration
from socadapter_api.training import ToolServer
from socadapter_api.trajectory import CallOutcome

_BROKEN = (MCPError, OSError, httpx2.HTTPError, anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream)
"""What a connection raises when the server, not the call, is at fault."""


class McpToolbox:
    """The tools of several MCP servers as one toolbox.

    An asynchronous context manager: entering connects to every server and reads its tools, and raises `ToolOutage`
    where one cannot be reached. `tokens` maps a server's name to its bearer token.
    """

    def __init__(self, servers: Sequence[ToolServer], tokens: Mapping[str, str] | None = None) -> None:
        self._connections = [_Connection(server, (tokens or {}).get(server.name)) for server in servers]
        self._owner: dict[str, _Connection] = {}
        self._specs: tuple[ToolSpec, ...] = ()

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return self._specs

    async def __aenter__(self) -> "McpToolbox":
        specs: dict[str, ToolSpec] = {}
        try:
            for connection in self._connections:
                for spec in await connection.list_specs():
                    if spec.name in specs:
                        raise SpecError(
                            f"tool {spec.name!r} is offered by server {connection.server.name!r} and by "
                            f"{self._owner[spec.name].server.name!r}: narrow one of them with 'allow'"
                        )
                    specs[spec.name] = spec
                    self._owner[spec.name] = connection
        except BaseException:
            await self._close()
            raise
        self._specs = tuple(specs[name] for name in sorted(specs))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        return await self._owner[tool].call(tool, args, alert)


class _Connection:
    """One server. The client lives in a task of its own, so that any task may call, and a broken one is replaced."""

    def __init__(self, server: ToolServer, token: str | None) -> None:
        self.server = server
        self._token = token
        self._bound: dict[str, set[str]] = {}
        self._client: Client | None = None
        self._holder: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._opening = asyncio.Lock()

    async def list_specs(self) -> list[ToolSpec]:
        """The tools that the spec lets the model see."""
        client = await self._connected()
        try:
            tools = (await client.list_tools()).tools
        except _BROKEN as error:
            raise self._outage(error) from error
        if missing := set(self.server.allow) - {tool.name for tool in tools}:
            raise SpecError(f"tool server {self.server.name!r} has no tools {sorted(missing)}, which its 'allow' names")
        return [self._spec(tool) for tool in tools if not self.server.allow or tool.name in self.server.allow]

    def _spec(self, tool: Tool) -> ToolSpec:
        schema = tool.input_schema
        properties = schema.get("properties", {})
        self._bound[tool.name] = set(self.server.bind) & set(properties)
        seen = {name: value for name, value in properties.items() if name not in self.server.bind}
        required = [name for name in schema.get("required", []) if name in seen]
        shown = {name: {"type": value.get("type", "string")} for name, value in seen.items()}
        description = (tool.description or "").strip().splitlines()
        return ToolSpec(
            name=tool.name,
            description=description[0] if description else "",
            parameters={"type": "object", "properties": shown, "required": required},
        )

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        arguments = dict(args)
        for name in self._bound.get(tool, ()):
            if alert.observed_at is not None:
                arguments[name] = alert.observed_at.isoformat()
        client = await self._connected()
        try:
            result = await client.call_tool(tool, arguments)
        except _BROKEN as error:
            await self._drop(client)
            raise self._outage(error) from error
        return _answer(tool, result)

    def _outage(self, error: BaseException) -> ToolOutage:
        where = self.server.url or " ".join(self.server.command)
        return ToolOutage(f"tool server {self.server.name!r} at {where} failed: {type(error).__name__}: {error}")

    async def _connected(self) -> Client:
        async with self._opening:
            if self._client is not None and self._holder is not None and not self._holder.done():
                return self._client
            ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
            self._closing = asyncio.Event()
            self._holder = asyncio.create_task(self._hold(ready, self._closing), name=f"mcp-{self.server.name}")
            self._client = await ready
            return self._client

    async def _hold(self, ready: asyncio.Future[Client], closing: asyncio.Event) -> None:
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._client_for(stack))
                ready.set_result(client)
                await closing.wait()
        except Exception as error:  # noqa: BLE001  the task's rim: handed to whoever waits, or to the next call
            if not ready.done():
                ready.set_exception(self._outage(error))

    async def _client_for(self, stack: AsyncExitStack) -> Client:
        timeout_s = parse_duration(self.server.timeout).total_seconds()
        if self.server.url is None:
            command, *rest = self.server.command
            return Client(StdioServerParameters(command=command, args=rest), read_timeout_seconds=timeout_s)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        http = await stack.enter_async_context(create_mcp_http_client(headers=headers))
        transport = streamable_http_client(self.server.url, http_client=http)
        return Client(transport, read_timeout_seconds=timeout_s)

    async def _drop(self, client: Client) -> None:
        if self._client is client:
            self._client = None
            self._closing.set()

    async def close(self) -> None:
        self._closing.set()
        if self._holder is not None:
            await asyncio.wait([self._holder])


def _answer(tool: str, result: CallToolResult) -> ToolAnswer:
    parts = [part.text for part in result.content if isinstance(part, TextContent)]
    if len(parts) != len(result.content):
        raise ToolGarbage(f"tool {tool!r} answered with something other than text")
    text = "\n".join(parts)
    if result.is_error:
        raise ToolOutage(f"tool {tool!r} failed: {text[:200]}")
    return ToolAnswer(text) if text else ToolAnswer("no data", CallOutcome.NO_DATA)
