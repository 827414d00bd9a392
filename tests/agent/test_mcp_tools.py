"""Tools over MCP, against real servers over streamable HTTP and stdio, and all that servers do wrong."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.types import INVALID_PARAMS, CallToolResult, ImageContent, ListToolsResult, TextContent, Tool

from socadapter_agent import mcp_tools
from socadapter_agent.mcp_tools import McpToolbox
from socadapter_agent.tools import GuardedToolbox, argument_problem
from socadapter_api.case import Alert
from socadapter_api.errors import SpecError, ToolGarbage, ToolOutage, ToolTimeout
from socadapter_api.training import ToolServer
from socadapter_api.trajectory import CallOutcome

pytestmark = pytest.mark.slow

AT = datetime(2024, 3, 1, 12, tzinfo=UTC)
ALERT = Alert({"user": "mlee"}, AT)
STDIO = (sys.executable, str(Path(__file__).with_name("stdio_server.py")))


class Bearer:
    """Lets requests through that carry the token."""

    def __init__(self, app: Any, token: str) -> None:
        self._app, self._wanted = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != self._wanted:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"unauthorized"})
        else:
            await self._app(scope, receive, send)


@pytest.fixture
def serving(serve_app: Callable[..., Any]) -> Callable[..., Any]:
    """Serves an MCP server over streamable HTTP; gives the URL."""

    @asynccontextmanager
    async def start(server: Any, port: int = 0, wrap: Callable[[Any], Any] = lambda app: app) -> AsyncIterator[str]:
        async with serve_app(wrap(server.streamable_http_app()), port) as root:
            yield f"{root}/mcp"

    return start


def telemetry(**tools: Callable[..., Any]) -> MCPServer:
    server = MCPServer("telemetry", log_level="CRITICAL")
    for name, function in tools.items():
        server.tool(name=name, description=f"About {name}.\nMore words that a model need not read.")(function)
    return server


def signins(user: str, as_of: str = "now") -> str:
    return f"{user} as of {as_of}"


def toolbox(url: str, **settings: Any) -> McpToolbox:
    return McpToolbox([ToolServer(name="telemetry", url=url, **settings)])


async def test_bound_arguments_are_hidden_and_filled(serving: Any) -> None:
    """The model sees no bound argument, and one line of description; the server gets the alert's time."""
    async with serving(telemetry(signins=signins)) as url, toolbox(url, bind={"as_of": "alert.observedAt"}) as tools:
        (spec,) = tools.specs
        assert (spec.name, spec.description) == ("signins", "About signins.")
        assert spec.parameters == {"type": "object", "properties": {"user": {"type": "string"}}, "required": ["user"]}
        assert (await tools.call("signins", {"user": "mlee"}, ALERT)).text == f"mlee as of {AT.isoformat()}"
        forged = {"user": "mlee", "as_of": "2030-01-01"}
        assert (await tools.call("signins", forged, ALERT)).text == f"mlee as of {AT.isoformat()}"
        assert (await tools.call("signins", {"user": "mlee"}, Alert({}))).text == "mlee as of now"


@pytest.mark.parametrize("offered", [{"signins": signins}, {"dns": lambda user: user}], ids=["misspelt", "no such"])
async def test_a_bound_argument_that_no_tool_takes_is_refused(serving: Any, offered: dict[str, Any]) -> None:
    """Tools would answer as of now, and tell what came after the alert."""
    name = "asof" if "signins" in offered else "as_of"
    async with serving(telemetry(**offered)) as url:
        with pytest.raises(SpecError, match=rf"no tool of server 'telemetry' takes \['{name}'\]"):
            async with toolbox(url, bind={name: "alert.observedAt"}):
                pass


async def test_a_tool_that_lost_its_bound_argument_is_not_called(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model sees the same tool, but its answers would be of another time."""
    monkeypatch.setattr(mcp_tools, "_LISTED_S", 0.0)

    def undated(user: str) -> str:
        return f"{user} as of now"

    async with serving(telemetry(signins=signins)) as url:
        tools = toolbox(url, bind={"as_of": "alert.observedAt"})
        await tools.__aenter__()
    try:
        async with serving(telemetry(signins=undated), port=int(url.split(":")[2].split("/")[0])):
            with pytest.raises(ToolOutage, match="ToolSchemaMismatch"):
                await tools.call("signins", {"user": "a"}, ALERT)
    finally:
        await tools.__aexit__(None, None, None)


async def test_only_allowed_tools_are_offered(serving: Any) -> None:
    """`allow` narrows what the model sees, and must name what exists."""
    async with serving(telemetry(signins=signins, dns=signins)) as url:
        async with toolbox(url, allow=("dns",)) as tools:
            assert [spec.name for spec in tools.specs] == ["dns"]
        with pytest.raises(SpecError, match="payroll"):
            await toolbox(url, allow=("dns", "payroll")).__aenter__()


async def test_two_servers_with_one_tool_are_refused(serving: Any) -> None:
    """A tool that two servers offer is refused with both names: which one answers must not be chance."""
    async with serving(telemetry(dns=signins)) as one, serving(telemetry(dns=signins, mail=signins)) as two:
        servers = [ToolServer(name="one", url=one), ToolServer(name="two", url=two)]
        with pytest.raises(SpecError, match=r"'dns'.*'two'.*'one'"):
            await McpToolbox(servers).__aenter__()
        narrowed = [servers[0], ToolServer(name="two", url=two, allow=("mail",))]
        async with McpToolbox(narrowed) as tools:
            assert [spec.name for spec in tools.specs] == ["dns", "mail"]
            assert (await tools.call("mail", {"user": "x"}, ALERT)).outcome is CallOutcome.OK


async def test_tokens_are_sent_to_their_own_server_only(serving: Any) -> None:
    """A server's token opens it; without one, or with another's, it is an outage that tells the status."""
    async with serving(telemetry(dns=signins), wrap=lambda app: Bearer(app, "s3cret")) as url:
        server = ToolServer(name="telemetry", url=url)
        async with McpToolbox([server], {"telemetry": "s3cret"}) as tools:
            assert (await tools.call("dns", {"user": "x"}, ALERT)).outcome is CallOutcome.OK
        for tokens in ({}, {"telemetry": "wr0ng"}, {"other": "s3cret"}):
            with pytest.raises(ToolOutage, match=r"'telemetry' at .*401") as caught:
                await McpToolbox([server], tokens).__aenter__()
            assert "wr0ng" not in str(caught.value)


async def test_a_server_that_is_not_there_is_an_outage() -> None:
    """Entering names the server that cannot be reached, whatever the transport."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/mcp"
    with pytest.raises(ToolOutage, match="'telemetry'"):
        await toolbox(url).__aenter__()
    with pytest.raises(ToolOutage, match="no-such-program"):
        await McpToolbox([ToolServer(name="local", command=("no-such-program",))]).__aenter__()


async def test_a_restart_costs_no_answer(serving: Any) -> None:
    """A session that a restarted server does not know is replaced within the call; until then it is an outage."""
    async with serving(telemetry(dns=signins)) as url:
        tools = toolbox(url)
        await tools.__aenter__()
        guarded = GuardedToolbox(tools, failures_to_open=99)
        assert (await guarded.call("dns", {"user": "a"}, ALERT)).outcome is CallOutcome.OK
    try:
        assert (await guarded.call("dns", {"user": "b"}, ALERT)).outcome is CallOutcome.OUTAGE
        async with serving(telemetry(dns=signins), port=int(url.split(":")[2].split("/")[0])):
            answered = await asyncio.gather(*(guarded.call("dns", {"user": str(n)}, ALERT) for n in range(4)))
            assert [answer.outcome for answer in answered] == [CallOutcome.OK] * 4
    finally:
        await tools.__aexit__(None, None, None)


async def test_a_restart_that_nobody_saw_costs_no_answer(serving: Any) -> None:
    """The same where the server was back before it was asked again: its sessions are gone, and one call finds out."""
    async with serving(telemetry(dns=signins)) as url:
        tools = toolbox(url)
        await tools.__aenter__()
    async with serving(telemetry(dns=signins), port=int(url.split(":")[2].split("/")[0])):
        try:
            assert (await tools.call("dns", {"user": "a"}, ALERT)).text == "a as of now"
        finally:
            await tools.__aexit__(None, None, None)


@pytest.mark.parametrize("seen", [False, True], ids=["behind its back", "after an outage"])
async def test_a_tool_that_a_restart_changed_is_not_called(
    seen: bool, serving: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arguments mean something else by now: an outage, told with its reason, until it is as it was again."""
    if not seen:
        monkeypatch.setattr(mcp_tools, "_LISTED_S", 0.0)
    asked: list[str] = []

    def by_name(user: str) -> str:
        asked.append(user)
        return user

    def by_account(account: str, user: str = "") -> str:
        asked.append(account)
        return account

    async with serving(telemetry(dns=by_name, mail=by_name)) as url:
        tools = toolbox(url)
        await tools.__aenter__()
    port = int(url.split(":")[2].split("/")[0])
    try:
        for server in (telemetry(dns=by_account, mail=by_name), telemetry(mail=by_name)):
            if seen:
                with pytest.raises(ToolOutage):
                    await tools.call("mail", {"user": "x"}, ALERT)
            async with serving(server, port=port):
                with pytest.raises(ToolOutage, match=r"'dns' of server 'telemetry'.*ToolSchemaMismatch"):
                    await tools.call("dns", {"user": "a"}, ALERT)
                assert "b" == (await tools.call("mail", {"user": "b"}, ALERT)).text
            assert ["b"] == asked
            asked.clear()
        async with serving(telemetry(dns=by_name, mail=by_name), port=port):
            assert "a" == (await tools.call("dns", {"user": "a"}, ALERT)).text
        assert ["dns", "mail"] == [spec.name for spec in tools.specs]
        told = [message for message in caplog.messages if message.startswith("tools_changed")]
        head = "tools_changed reason=ToolSchemaMismatch server=telemetry tools="
        assert [f"{head}dns", f"{head}none"] == told
    finally:
        await tools.__aexit__(None, None, None)


async def test_one_failing_call_disturbs_no_other(serving: Any) -> None:
    """A call that times out, fails or is cancelled leaves those that share its session alone."""
    gate = asyncio.Event()

    async def waits(user: str) -> str:
        await gate.wait()
        return user

    async def fails(user: str) -> str:
        raise ValueError("backend unavailable")

    async def hangs(user: str) -> str:
        await asyncio.Event().wait()
        return user

    async with serving(telemetry(waits=waits, fails=fails, hangs=hangs)) as url, toolbox(url, timeout="20s") as tools:
        guarded = GuardedToolbox(tools, timeout_s=0.3)
        held = asyncio.create_task(tools.call("waits", {"user": "held"}, ALERT))
        outcomes = [(await guarded.call(name, {"user": "x"}, ALERT)).outcome for name in ("fails", "hangs")]
        assert outcomes == [CallOutcome.OUTAGE, CallOutcome.TIMEOUT]
        gate.set()
        assert (await held).text == "held"


async def test_an_error_that_the_server_answers_is_not_asked_again(serving: Any) -> None:
    """An error of the protocol about one call is an outage of that call, sent once and over a session that stays."""
    asked = 0

    async def list_tools(_: Any, __: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="dns", input_schema={"type": "object"})])

    async def call_tool(_: Any, __: Any) -> CallToolResult:
        nonlocal asked
        asked += 1
        raise MCPError(code=INVALID_PARAMS, message="no such host")

    server: Server[Any] = Server("strict", on_list_tools=list_tools, on_call_tool=call_tool)
    async with serving(server) as url, toolbox(url) as tools:
        with pytest.raises(ToolOutage, match="no such host"):
            await tools.call("dns", {}, ALERT)
    assert asked == 1


async def test_the_protocols_own_time_out_keeps_the_session(serving: Any) -> None:
    """Where no guard stands in front, a slow call ends at the server's `timeout`, and only that call."""

    async def maybe(user: str) -> str:
        if user == "slow":
            await asyncio.Event().wait()
        return user

    async with serving(telemetry(maybe=maybe)) as url, toolbox(url, timeout="1s") as tools:
        with pytest.raises(ToolTimeout, match="1 s"):
            await tools.call("maybe", {"user": "slow"}, ALERT)
        assert (await tools.call("maybe", {"user": "quick"}, ALERT)).text == "quick"


async def test_calls_overlap(serving: Any) -> None:
    """Eight calls are on their way at once over the one session: each waits for all others to have begun."""
    begun = 0
    together = asyncio.Event()

    async def meets(user: str) -> str:
        nonlocal begun
        begun += 1
        if begun == 8:
            together.set()
        await together.wait()
        return user

    async with serving(telemetry(meets=meets)) as url, toolbox(url) as tools:
        answered = await asyncio.gather(*(tools.call("meets", {"user": str(n)}, ALERT) for n in range(8)))
    assert [answer.text for answer in answered] == [str(n) for n in range(8)]


async def test_pages_of_tools_are_all_read_and_odd_answers_named(serving: Any) -> None:
    """A server may list its tools in pages, answer nothing, in a structure alone, or with what is no text."""
    contents: dict[str, list[Any]] = {
        "nothing": [],
        "structure": [],
        "lines": [TextContent(type="text", text="a"), TextContent(type="text", text="b")],
        "picture": [ImageContent(type="image", data="AA==", mime_type="image/png")],
    }
    names = list(contents)

    async def list_tools(_: Any, params: Any) -> ListToolsResult:
        page = int(params.cursor or 0) if params else 0
        following = str(page + 1) if page + 1 < len(names) else None
        return ListToolsResult(tools=[Tool(name=names[page], input_schema={"type": "object"})], next_cursor=following)

    async def call_tool(_: Any, params: Any) -> CallToolResult:
        structure = {"failures": 3} if params.name == "structure" else None
        return CallToolResult(content=contents[params.name], structured_content=structure)

    server: Server[Any] = Server("paged", on_list_tools=list_tools, on_call_tool=call_tool)
    async with serving(server) as url, toolbox(url) as tools:
        assert [spec.name for spec in tools.specs] == sorted(names)
        assert (await tools.call("nothing", {}, ALERT)).outcome is CallOutcome.NO_DATA
        assert (await tools.call("lines", {}, ALERT)).text == "a\nb"
        assert (await tools.call("structure", {}, ALERT)).text == '{"failures":3}'
        with pytest.raises(ToolGarbage, match="picture"):
            await tools.call("picture", {}, ALERT)


async def test_schemas_may_say_little(serving: Any) -> None:
    """Whatever JSON Schema allows of an argument, the tool is offered; the type is known where there is one."""
    optional = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
    either = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    anything = {
        "any": True,
        "listed": {"type": ["null", "integer"]},
        "none": {},
        "optional": optional,
        "either": either,
    }
    schemas: list[dict[str, Any]] = [
        {"type": "object", "properties": anything, "required": None},
        {"type": "object", "properties": None},
    ]

    async def list_tools(_: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=f"t{n}", input_schema=schema) for n, schema in enumerate(schemas)])

    server: Server[Any] = Server("loose", on_list_tools=list_tools)
    async with serving(server) as url, toolbox(url) as tools:
        first, second = tools.specs
    integer = {"type": "integer"}
    assert {"any": {}, "listed": integer, "none": {}, "optional": integer, "either": {}} == first.parameters[
        "properties"
    ]
    assert argument_problem(first, {"optional": 5, "any": [1], "either": "a"}) is None
    assert argument_problem(first, {"optional": "five"})
    assert {} == second.parameters["properties"]


async def test_ten_megabytes_are_garbage_not_a_crash(serving: Any) -> None:
    """A result of 10 MB comes to nothing but its outcome, and the session goes on."""

    def dump(user: str) -> str:
        return user * (10_000_000 if user == "A" else 1)

    async with serving(telemetry(dump=dump)) as url, toolbox(url) as tools:
        guarded = GuardedToolbox(tools)
        assert (await guarded.call("dump", {"user": "A"}, ALERT)).outcome is CallOutcome.GARBAGE
        assert (await guarded.call("dump", {"user": "b"}, ALERT)).text == "b"


async def test_a_stdio_server_is_started_again_after_a_crash(tmp_path: Path) -> None:
    """Over standard input and output: a call that finds the server crashed is made once more, and not for ever."""
    async with McpToolbox([ToolServer(name="local", command=STDIO, timeout="60s")]) as tools:
        guarded = GuardedToolbox(tools, timeout_s=120)
        assert (await guarded.call("owner", {"host": "web"}, ALERT)).text == "host=web owner=finance"
        assert (await guarded.call("owner", {"host": "crash"}, ALERT)).outcome is CallOutcome.OUTAGE
        once = str(tmp_path / "crashed")
        assert (await guarded.call("owner", {"host": once}, ALERT)).text == f"host={once} owner=finance"


async def test_leaving_ends_a_connection_that_is_still_being_made() -> None:
    """A server that never answers: the call ends with its caller's patience, and leaving is quick."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tools = toolbox(f"http://127.0.0.1:{silent.getsockname()[1]}/mcp", timeout="600s")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await tools.__aenter__()
        async with asyncio.timeout(10):
            await tools.__aexit__(None, None, None)
