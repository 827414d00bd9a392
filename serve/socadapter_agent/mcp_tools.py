"""Tools over MCP: the live side of an investigation.

One client session per server, shared by all investigations; calls are multiplexed over it. A call that finds its
connection broken is made once more over a new one, so that a server's restart costs nothing: tools only read. Arguments
that the spec binds (such as the time to answer as of) are filled in here and hidden from the model. A server
that was started anew may show in nothing but its tools: they are listed again now and then, and those that are not as
they were at first are called no more.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    CallToolResult,
    TextContent,
    Tool,
)
from pydantic import ValidationError

from socadapter_agent.tools import ToolAnswer, ToolSpec
from socadapter_api.case import Alert
from socadapter_api.errors import SpecError, ToolGarbage, ToolOutage, ToolSchemaMismatch, ToolTimeout
from socadapter_api.model import parse_duration
from socadapter_api.training import ToolServer
from socadapter_api.trajectory import CallOutcome

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_BROKEN = (OSError, httpx2.HTTPError, anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream)
"""What a connection raises that will not carry another call."""

_ANSWERED = (INVALID_PARAMS, METHOD_NOT_FOUND, INTERNAL_ERROR, REQUEST_TIMEOUT)
"""Errors of one request; any other error of the protocol means that the session is gone."""

_LISTED_S = 30.0
"""How long a list of tools is believed."""

_MAX_PAGES = 100
_CLOSE_S = 5.0


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


@dataclass(slots=True, eq=False)
class _Line:
    """One open session, and how many calls are on it. A retired one is closed when the last of them is done."""

    client: Client
    closing: asyncio.Event
    calls: int = 0
    retired: bool = False


class _Broken(Exception):  # never leaves this module
    """The line failed, and a new one may do better."""


class _Offer(NamedTuple):
    """A tool as the model sees it, and which of its arguments are filled in unseen."""

    spec: ToolSpec
    bound: frozenset[str]


class _Connection:
    """One server. Each client lives in a task of its own, so that any task may call, and a broken one is replaced."""

    def __init__(self, server: ToolServer, token: str | None) -> None:
        self.server = server
        self._token = token
        self._timeout_s = parse_duration(server.timeout).total_seconds()
        self._offered: dict[str, _Offer] = {}
        self._changed: frozenset[str] = frozenset()
        self._listed_at = float("-inf")
        self._listing = asyncio.Lock()
        self._line: _Line | None = None
        self._holders: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()
        self._status: int | None = None

    async def list_specs(self) -> list[ToolSpec]:
        """The tools that the spec lets the model see."""
        tools = await self._ask(_all_tools)
        if missing := set(self.server.allow) - {tool.name for tool in tools}:
            raise SpecError(f"tool server {self.server.name!r} has no tools {sorted(missing)}, which its 'allow' names")
        offered = self._seen(tools)
        if untaken := set(self.server.bind).difference(*(offer.bound for offer in offered.values())):
            raise SpecError(
                f"no tool of server {self.server.name!r} takes {sorted(untaken)}, which its 'bind' names: it would "
                "answer as of now, of what came after an alert of the past"
            )
        self._offered = offered
        self._listed_at = time.monotonic()
        return [offer.spec for offer in offered.values()]

    def _seen(self, tools: Sequence[Tool]) -> dict[str, _Offer]:
        allowed = (tool for tool in tools if not self.server.allow or tool.name in self.server.allow)
        return {tool.name: self._offer(tool) for tool in allowed}

    async def _compare(self, client: Client) -> None:
        """Lists the tools again, where that was long ago or in another session, and tells which are not as offered."""
        async with self._listing:
            if time.monotonic() - self._listed_at < _LISTED_S and not self._changed:
                return
            now = self._seen(await _all_tools(client))
            self._listed_at = time.monotonic()
        names = self._offered.keys() | now.keys()
        changed = frozenset(name for name in names if self._offered.get(name) != now.get(name))
        if changed != self._changed:
            told = ",".join(sorted(changed)) or "none"
            _log.warning(
                "tools_changed reason=%s server=%s tools=%s", ToolSchemaMismatch.reason, self.server.name, told
            )
        self._changed = changed

    def _offer(self, tool: Tool) -> _Offer:
        schema = tool.input_schema
        properties: dict[str, Any] = schema.get("properties") or {}
        seen = {name: value for name, value in properties.items() if name not in self.server.bind}
        required = [name for name in schema.get("required") or () if name in seen]
        shown = {name: _type_in(value) for name, value in seen.items()}
        description = (tool.description or "").strip().splitlines()
        spec = ToolSpec(
            name=tool.name,
            description=description[0] if description else "",
            parameters={"type": "object", "properties": shown, "required": required},
        )
        return _Offer(spec, frozenset(self.server.bind) & frozenset(properties))

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        async def asked(client: Client) -> CallToolResult:
            await self._compare(client)
            if tool in self._changed:
                raise ToolOutage(
                    f"tool {tool!r} of server {self.server.name!r} is not what was offered at first "
                    f"({ToolSchemaMismatch.reason}): bring it back, or restart what asks it"
                )
            arguments = dict(args)
            if alert.observed_at is not None and tool in self._offered:
                arguments |= dict.fromkeys(self._offered[tool].bound, alert.observed_at.isoformat())
            return await client.call_tool(tool, arguments)

        try:
            return _answer(tool, await self._ask(asked))
        except ToolOutage:
            self._listed_at = float("-inf")  # what failed may come back as another
            raise

    async def _ask(self, request: Callable[[Client], Awaitable[_T]]) -> _T:
        """Sends a request, a second time where the line turns out to be broken.

        Raises:
            ToolError: of the kind that says why there is no answer.
        """
        for again in (True, False):
            try:
                async with self._on_line() as client:
                    return await request(client)
            except _Broken as error:
                if not again:
                    raise self._outage(error.__cause__ or error) from error.__cause__
        raise AssertionError("the second attempt returns or raises")

    @asynccontextmanager
    async def _on_line(self) -> AsyncIterator[Client]:
        line = await self._opened()
        line.calls += 1
        try:
            yield line.client
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                raise ToolTimeout(
                    f"tool server {self.server.name!r} gave no answer in {self._timeout_s:g} s"
                ) from error
            if error.code in _ANSWERED:
                raise self._outage(error) from error
            line.retired = True
            raise _Broken from error
        except _BROKEN as error:
            line.retired = True
            raise _Broken from error
        except (RuntimeError, ValidationError) as error:  # the library's word for results that break their own schema
            raise ToolGarbage(f"tool server {self.server.name!r} answered with something other than MCP") from error
        finally:
            line.calls -= 1
            if line.retired and not line.calls:
                line.closing.set()

    def _outage(self, error: BaseException) -> ToolOutage:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        where = self.server.url or " ".join(self.server.command)
        status = f"HTTP status {self._status}, " if self._status else ""
        return ToolOutage(
            f"tool server {self.server.name!r} at {where} failed: {status}{type(error).__name__}: {error}"
        )

    async def _opened(self) -> _Line:
        async with self._opening:
            if self._line is not None and not self._line.retired:
                return self._line
            ready: asyncio.Future[_Line] = asyncio.get_running_loop().create_future()
            holder = asyncio.create_task(self._hold(ready), name=f"mcp-{self.server.name}")
            self._holders.add(holder)
            holder.add_done_callback(self._holders.discard)
            try:
                self._line = await ready
            except asyncio.CancelledError:
                holder.cancel()
                raise
            return self._line

    async def _hold(self, ready: "asyncio.Future[_Line]") -> None:
        """Keeps one session open until its line is closed, or its server breaks it."""
        self._status = None
        line: _Line | None = None
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._client_for(stack))
                line = _Line(client, asyncio.Event())
                self._listed_at = float("-inf")
                ready.set_result(line)
                await line.closing.wait()
        except Exception as error:  # noqa: BLE001  the task's rim: handed to whoever waits, or to the next call
            if not ready.done():
                ready.set_exception(self._outage(error))
        finally:
            if line is not None:
                line.retired = True

    async def _client_for(self, stack: AsyncExitStack) -> Client:
        if self.server.url is None:
            command, *rest = self.server.command
            return Client(StdioServerParameters(command=command, args=rest), read_timeout_seconds=self._timeout_s)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        http = await stack.enter_async_context(create_mcp_http_client(headers=headers))
        http.event_hooks = {"response": [self._note_status]}
        transport = streamable_http_client(self.server.url, http_client=http)
        return Client(transport, read_timeout_seconds=self._timeout_s)

    async def _note_status(self, response: httpx2.Response) -> None:
        """The protocol's errors do not tell a refused token from a crash; the status does."""
        self._status = response.status_code if response.is_error else None

    async def close(self) -> None:
        """Ends the sessions; calls under way fail."""
        if self._line is not None:
            self._line.closing.set()
        holders = list(self._holders)
        if holders:
            _, slow = await asyncio.wait(holders, timeout=_CLOSE_S)
            for holder in slow:
                holder.cancel()
            await asyncio.gather(*slow, return_exceptions=True)


async def _all_tools(client: Client) -> list[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor, cache_mode="bypass")
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


def _type_in(schema: Any) -> dict[str, str]:
    """An argument's type, whichever way JSON Schema says it; empty where it may be anything, or of several types."""
    options = [schema]
    if isinstance(schema, Mapping):
        options = schema.get("anyOf") or schema.get("oneOf") or options
    said = [option.get("type") if isinstance(option, Mapping) else None for option in options]
    types = {one for found in said for one in (found if isinstance(found, list) else [found])} - {"null"}
    return {"type": str(*types)} if len(types) == 1 and None not in types else {}


def _answer(tool: str, result: CallToolResult) -> ToolAnswer:
    parts = [part.text for part in result.content if isinstance(part, TextContent)]
    if len(parts) != len(result.content):
        raise ToolGarbage(f"tool {tool!r} answered with something other than text")
    text = "\n".join(parts)
    if not parts and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":"))
    if result.is_error:
        raise ToolOutage(f"tool {tool!r} failed: {text[:200]}")
    return ToolAnswer(text) if text else ToolAnswer("no data", CallOutcome.NO_DATA)
