"""The tools over a real MCP server, with the real client, and with everything that can go wrong."""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, TextContent

from socadapter_agent.mcp_tools import McpToolbox
from socadapter_agent.tools import GuardedToolbox
from socadapter_api.case import Alert, Case
from socadapter_api.errors import InsecureBind, SpecError
from socadapter_api.training import ToolServer
from socadapter_api.trajectory import CallOutcome
from socadapter_range import CONTEXTS, TOOL_SPECS, RangeToolbox, World, range_cases
from socadapter_range.__main__ import main
from socadapter_range.expert import FIELD_OF
from socadapter_range.faults import Fault, Faults
from socadapter_range.server import running, serve_http
from socadapter_range.tools import ARGUMENT_OF

pytestmark = pytest.mark.slow

Served = tuple[str, Faults]


@pytest.fixture
def case(world: World, tools: RangeToolbox) -> Case:
    return range_cases(world, CONTEXTS[0], "train", 1, tools)[0]


@pytest.fixture
async def served(tools: RangeToolbox) -> AsyncIterator[Served]:
    faults = Faults()
    async with running(tools, faults, admin=True) as url:
        yield url, faults


def _text(result: CallToolResult) -> str:
    assert all(isinstance(part, TextContent) for part in result.content)
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def _arguments(case: Case, tool: str) -> dict[str, str]:
    assert case.observed_at is not None
    return {ARGUMENT_OF[tool]: case.alert[FIELD_OF[tool]], "as_of": case.observed_at.isoformat()}


async def test_eight_tools_answer_as_in_process(served: Served, case: Case) -> None:
    """Each tool takes its argument and `as_of`, and returns the recorded text as plain text."""
    async with Client(served[0]) as client:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == [spec.name for spec in TOOL_SPECS]
        for tool in tools:
            assert set(tool.input_schema["properties"]) == {ARGUMENT_OF[tool.name], "as_of"}
            result = await client.call_tool(tool.name, _arguments(case, tool.name))
            assert _text(result) == case.evidence[tool.name]
            assert not result.is_error


async def test_agent_sees_the_same_tools_live_as_in_process(served: Served, case: Case) -> None:
    """Through the agent's own MCP client, with the time bound, specs and answers equal the in-process toolbox's."""
    server = ToolServer(name="range", url=served[0], bind={"as_of": "alert.observedAt"})
    async with McpToolbox([server]) as toolbox:
        live = [(spec.name, spec.description, spec.parameters) for spec in toolbox.specs]
        assert live == [(spec.name, spec.description, spec.parameters) for spec in TOOL_SPECS]
        for tool in case.evidence:
            args = {ARGUMENT_OF[tool]: case.alert[FIELD_OF[tool]]}
            assert (await toolbox.call(tool, args, case.visible())).text == case.evidence[tool]


async def test_sixty_four_calls_at_once(served: Served, case: Case) -> None:
    """Sixty-four concurrent calls, each delayed by a quarter of a second, take about as long as one."""
    url, faults = served
    async with Client(url) as client:
        await client.call_tool("dns", _arguments(case, "dns"))
        faults.replace({"*": Fault(latency_s=0.25)})
        started = time.perf_counter()
        results = await asyncio.gather(*(client.call_tool("dns", _arguments(case, "dns")) for _ in range(64)))
        assert time.perf_counter() - started < 2.0
    assert {_text(result) for result in results} == {case.evidence["dns"]}


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        pytest.param(Fault(outage=True), CallOutcome.OUTAGE, id="outage"),
        pytest.param(Fault(garbage=True), CallOutcome.GARBAGE, id="garbage"),
        pytest.param(Fault(hang=True), CallOutcome.TIMEOUT, id="hang"),
        pytest.param(Fault(latency_s=600), CallOutcome.TIMEOUT, id="too slow"),
        pytest.param(Fault(latency_s=0.01), CallOutcome.OK, id="slow"),
    ],
)
async def test_faults_reach_the_agent_as_outcomes(
    served: Served, case: Case, fault: Fault, outcome: CallOutcome
) -> None:
    """Each fault of one tool shows as its outcome, and leaves the other tools alone."""
    url, faults = served
    faults.replace({"dns": fault})
    server = ToolServer(name="range", url=url, bind={"as_of": "alert.observedAt"})
    async with McpToolbox([server]) as inner:
        toolbox = GuardedToolbox(inner, timeout_s=0.5)
        alert: Alert = case.visible()
        assert (await toolbox.call("dns", {"host": alert.fields["host"]}, alert)).outcome is outcome
        assert (await toolbox.call("asset", {"name": alert.fields["host"]}, alert)).outcome is CallOutcome.OK


async def test_faults_are_switched_while_the_server_runs(served: Served, case: Case) -> None:
    """``PUT /faults`` takes effect on the next call, and a wrong body changes nothing."""
    url, faults = served
    admin = url.replace("/mcp", "/faults")
    async with httpx.AsyncClient() as http, Client(url) as client:
        assert (await http.put(admin, json={"dns": {"outage": True}})).json() == {"dns": {"outage": True}}
        assert (await client.call_tool("dns", _arguments(case, "dns"))).is_error
        for wrong in ("{", '{"dns": {"fire": 1}}', '{"payroll": {}}', json.dumps({"dns": {"latency_s": -1}})):
            assert (await http.put(admin, content=wrong)).status_code == 422
        assert faults.of("dns").outage
        await http.put(admin, json={})
        assert not (await client.call_tool("dns", _arguments(case, "dns"))).is_error


async def test_admin_is_off_by_default(tools: RangeToolbox) -> None:
    """A server that was not asked for it has no way to switch faults."""
    async with running(tools, Faults()) as url, httpx.AsyncClient() as http:
        assert (await http.put(url.replace("/mcp", "/faults"), json={})).status_code == 404


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        pytest.param("dns", {"host": "x", "as_of": "yesterday"}, id="time"),
        pytest.param("dns", {"user": "x"}, id="argument"),
        pytest.param("payroll", {"host": "x"}, id="tool"),
    ],
)
async def test_wrong_calls_are_errors_with_a_text(served: Served, tool: str, arguments: dict[str, str]) -> None:
    """A call that the server cannot answer is an error of that call, and the session goes on."""
    async with Client(served[0]) as client:
        assert (await client.call_tool(tool, arguments)).is_error
        assert (await client.list_tools()).tools


async def test_stdio_server_answers_alike(folder: Path, tools: RangeToolbox, case: Case) -> None:
    """The same tools over standard input and output, started as an agent starts them."""
    database = str(folder / "telemetry.sqlite")
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "socadapter_range", "serve", "--stdio", "--db", database]
    )
    async with Client(command) as client:
        result = await client.call_tool("asset", _arguments(case, "asset"))
        assert _text(result) == case.evidence["asset"]


async def test_command_line_serves_and_says_where(folder: Path, case: Case, tmp_path: Path) -> None:
    """`serve` prints its URL, writes it to the ready file, and answers with the faults that it was given."""
    ready = tmp_path / "ready"
    arguments = ["--db", str(folder / "telemetry.sqlite"), "--ready-file", str(ready)]
    faults = ["--faults", '{"dns": {"outage": true}}']
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "socadapter_range", "serve", *arguments, *faults, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            url = (await process.stdout.readline()).decode().strip()
            async with Client(url) as client:
                assert (await client.call_tool("dns", _arguments(case, "dns"))).is_error
                assert not (await client.call_tool("asset", _arguments(case, "asset"))).is_error
        assert ready.read_text() == url
    finally:
        process.terminate()
        await process.communicate()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "range.example"])
def test_only_loopback_is_served(tools: RangeToolbox, host: str) -> None:
    """An address that others can reach, or any name, is refused before anything listens."""
    with pytest.raises(InsecureBind, match=re.escape(repr(host))):
        serve_http(tools, Faults(), host=host, port=0, admin=False, ready_file=None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--db", "nowhere.sqlite"], "nowhere.sqlite", id="no telemetry"),
        pytest.param(["--db", "x", "--latency", "-1"], "latency_s", id="negative latency"),
        pytest.param(["--db", "x", "--faults", "[]"], "faults", id="faults of the wrong form"),
        pytest.param(["--db", "x", "--faults", '{"payroll": {}}'], "payroll", id="fault of an unknown tool"),
    ],
)
def test_impossible_servers_say_why(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that cannot start ends with status 2 and names the value."""
    assert main(["serve", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_unknown_fault_names_are_refused() -> None:
    """Faults of tools that do not exist are refused, and the present ones stay."""
    faults = Faults({"dns": Fault(hang=True)})
    with pytest.raises(SpecError, match="payroll"):
        faults.replace({"payroll": Fault()})
    assert faults.of("dns").hang
