"""One engine replica with a real engine, real signed adapters and real tools, in this process."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_agent.engine import Sampling
from socadapter_agent.mcp_tools import McpToolbox
from socadapter_agent.tools import tools_digest
from socadapter_api import digest
from socadapter_api.case import Alert, Verdict
from socadapter_api.errors import SocAdapterError, TemplateUnsupported, ToolOutage
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_api.trajectory import CallOutcome
from socadapter_serve.config import Limits, ServeConfig
from socadapter_serve.engines import build_engine, build_tools
from socadapter_serve.loading import AdapterLoader
from socadapter_serve.messages import ChatJob, RequestRefused, TriageJob
from socadapter_serve.replica import Replica
from socadapter_serve.toolbox_keeper import ToolboxKeeper
from socadapter_store import signatures
from socadapter_store.cache import fetch_verified

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings(
        "ignore:Adapter .* was active which is now deleted:UserWarning"
    ),  # names decide, per row
]


@pytest.fixture
async def replica(make_config: Callable[..., ServeConfig], tmp_path: Path) -> AsyncIterator[Replica]:
    config = make_config(tmp_path)
    running = Replica("r0", config, build_engine(config), build_tools(config))
    await running.start()
    yield running
    await running.stop()


def table(generation: int, *versions: ServedVersion) -> ServingTable:
    routes = (ContextRoute(context=f"c{n}", stable=version) for n, version in enumerate(versions))
    return ServingTable(generation=generation, routes=tuple(routes))


async def test_a_version_asks_its_tool_and_concludes(
    replica: Replica,
    make_version: Callable[..., ServedVersion],
    base: Any,
    alert: dict[str, Any],
    until: Callable[..., Any],
) -> None:
    """A real engine with a verified adapter calls a real tool and gives a cited verdict; so does the base."""
    version = make_version("cloud", 1)
    replica.apply(table(1, version))
    await until(lambda: any(found.ready for found in replica.report().loaded))
    for served in (version, None):
        outcome = await replica.triage(TriageJob(Alert(alert), served))
        assert [("signins", CallOutcome.OK)] == [(c.tool, c.outcome) for c in outcome.trajectory.calls]
        assert (Verdict.FALSE_POSITIVE, ("e1",)) == (outcome.trajectory.verdict, outcome.trajectory.citations)
        assert (served.name if served else "") == outcome.trajectory.version
        assert (served is not None) == (outcome.calibration is not None)
        assert base.digest == outcome.base_digest


async def test_without_a_summary_it_stops_at_the_verdict(replica: Replica, alert: dict[str, Any]) -> None:
    """The verdict comes with its probabilities, the summary is not written."""
    trajectory = (await replica.triage(TriageJob(Alert(alert), None, summary=False))).trajectory
    assert (Verdict.FALSE_POSITIVE, "") == (trajectory.verdict, trajectory.summary)
    assert trajectory.probabilities is not None


async def test_a_chat_that_the_engine_cannot_read_is_refused(
    make_config: Callable[..., ServeConfig], tmp_path: Path
) -> None:
    """As the request's fault, above the configuration's limit; below it the engine answers."""
    config = make_config(tmp_path, limits=Limits(max_chat_tokens=80))
    replica = Replica("r0", config, build_engine(config), build_tools(config))
    await replica.start()
    short, long = (
        ChatJob(({"role": "user", "content": "x" * size},), None, Sampling(max_turn_tokens=4)) for size in (4, 80)
    )
    answered = await replica.chat(short)
    assert (True, replica.report().base_digest) == (answered.tokens_generated <= 4, answered.base_digest)
    with pytest.raises(RequestRefused, match="a chat here may take 80"):
        await replica.chat(long)
    await replica.stop()


async def test_an_investigation_outlives_its_version_in_the_table(
    replica: Replica,
    make_version: Callable[..., ServedVersion],
    alert: dict[str, Any],
    tool_server: Any,
    until: Callable[..., Any],
) -> None:
    """A table without the version arrives between two turns: the verdict is still that version's, and then it goes."""
    old, new = make_version("cloud", 1), make_version("cloud", 2)
    replica.apply(table(1, old))
    await until(lambda: [found.ready for found in replica.report().loaded] == [True])
    tool_server.gate.clear()
    calls = len(tool_server.calls)
    under_way = asyncio.create_task(replica.triage(TriageJob(Alert(alert), old)))
    await until(lambda: len(tool_server.calls) > calls)
    replica.apply(table(2, new))
    await until(lambda: [found.name for found in replica.report().loaded if found.ready] == [old.name, new.name])
    tool_server.gate.set()
    trajectory = (await under_way).trajectory
    assert (old.name, Verdict.FALSE_POSITIVE) == (trajectory.version, trajectory.verdict)
    await until(lambda: [found.name for found in replica.report().loaded] == [new.name])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"base_digest": digest.of_bytes(b"other")}, "BaseMismatch", id="another base"),
        pytest.param({"template_digest": digest.of_bytes(b"other")}, "TemplateUnsupported", id="another chat template"),
        pytest.param({"tools_digest": digest.of_bytes(b"other")}, "ToolSchemaMismatch", id="other tools"),
    ],
)
async def test_what_does_not_fit_is_refused(
    replica: Replica,
    make_version: Callable[..., ServedVersion],
    until: Callable[..., Any],
    changes: dict[str, str],
    reason: str,
) -> None:
    """A well-signed version that was trained for something else is named with its reason and loaded nowhere."""
    version = make_version("cloud", 3, **changes)
    replica.apply(table(1, version))
    await until(lambda: [found.reason for found in replica.report().loaded] == [reason])
    with pytest.raises(SocAdapterError) as caught:
        await replica.triage(TriageJob(Alert({"title": "t"}), version))
    assert reason == caught.value.reason


async def test_tools_that_come_late_are_waited_for(
    make_config: Callable[..., ServeConfig],
    make_version: Callable[..., ServedVersion],
    alert: dict[str, Any],
    tool_server: Any,
    tmp_path: Path,
    until: Callable[..., Any],
) -> None:
    """While the tool server is away versions wait with that reason; when it is there they load, without a new table."""
    config = make_config(tmp_path)
    toolbox = McpToolbox(config.spec.tools, {})
    absent = [ToolOutage("nobody listens")] * 3

    def open_toolbox() -> McpToolbox:
        if absent:
            raise absent.pop()
        return toolbox

    replica = Replica("r0", config, build_engine(config), ToolboxKeeper(open_toolbox, retry_s=0.3))
    await replica.start()
    version = make_version("cloud", 1)
    replica.apply(table(1, version))
    await until(lambda: [found.reason for found in replica.report().loaded] == ["ToolOutage"])
    with pytest.raises(ToolOutage, match="nobody listens"):
        await replica.triage(TriageJob(Alert(alert), None))
    await until(lambda: [found.ready for found in replica.report().loaded] == [True])
    await replica.stop()


async def test_a_store_that_hangs_is_told_and_asked_again(
    make_config: Callable[..., ServeConfig],
    make_version: Callable[..., ServedVersion],
    until: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version whose files do not come is reported with the store's reason instead of loading for ever."""
    answers = threading.Event()

    def fetch(*asked: Any) -> Any:
        answers.wait(60)
        return fetch_verified(*asked)

    monkeypatch.setattr("socadapter_serve.loading.fetch_verified", fetch)
    config = make_config(tmp_path, limits=Limits(fetch_timeout_s=0.2))
    replica = Replica("r0", config, build_engine(config), build_tools(config))
    await replica.start()
    replica.apply(table(1, make_version("cloud", 1)))
    await until(lambda: [found.reason for found in replica.report().loaded] == ["StoreUnavailable"])
    answers.set()
    await until(lambda: [found.ready for found in replica.report().loaded] == [True])
    await replica.stop()


async def test_a_template_that_no_one_can_see_is_not_compared(
    base: Any, key: signatures.KeyPair, make_version: Callable[..., ServedVersion], tmp_path: Path
) -> None:
    """An engine behind HTTP shows no template; everything else about the version is still checked."""
    other = {"template_digest": digest.of_bytes(b"other")}
    version = make_version("cloud", 5, **other)
    seen = {
        "base_digest": base.digest,
        "tools_digest": lambda: tools_digest(base.tools),
        "max_rank": 8,
        "timeout_s": 60,
    }
    unseen = AdapterLoader(tmp_path, (key.public_pem(),), template_digest=None, **seen)
    assert version.name == (await unseen.fetch(version)).manifest.version
    known = AdapterLoader(tmp_path, (key.public_pem(),), template_digest=base.template_digest, **seen)
    with pytest.raises(TemplateUnsupported):
        await known.fetch(version)
