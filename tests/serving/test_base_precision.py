"""In which number format the base is loaded, and what is said of versions that were judged in another."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.case import Alert, Verdict
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_api.training import Precision
from socadapter_serve import base_precision
from socadapter_serve.base_precision import precision_for
from socadapter_serve.config import ServeConfig
from socadapter_serve.engines import build_engine, build_tools
from socadapter_serve.messages import TriageJob
from socadapter_serve.replica import Replica

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
]
AUTO = {"engine": {"precision": "Auto"}}


def table(*versions: ServedVersion) -> ServingTable:
    routes = (ContextRoute(context=f"c{n}", stable=version) for n, version in enumerate(versions))
    return ServingTable(generation=1, routes=tuple(routes))


@asynccontextmanager
async def serving(config: ServeConfig, held: ServingTable) -> AsyncIterator[Replica]:
    engine = build_engine(config, await precision_for(config, held))
    replica = Replica("r0", config, engine, build_tools(config))
    await replica.start()
    replica.apply(held)
    try:
        yield replica
    finally:
        await replica.stop()


@pytest.mark.parametrize("judged", [Precision.FLOAT32, Precision.BFLOAT16])
async def test_auto_is_what_the_versions_were_judged_in(
    judged: Precision,
    make_config: Callable[..., ServeConfig],
    make_version: Callable[..., ServedVersion],
    alert: dict[str, Any],
    tmp_path: Path,
    until: Callable[..., Any],
) -> None:
    """The base is loaded in that format, the version answers on it, and nothing is said of a difference."""
    config = make_config(tmp_path, **AUTO)
    version = make_version("cloud", 10 + list(Precision).index(judged), precision=judged)
    assert build_engine(config, await precision_for(config, table(version))).precision is judged
    async with serving(config, table(version)) as replica:
        await until(lambda: [(held.ready, held.reason) for held in replica.report().loaded] == [(True, "")])
        outcome = await replica.triage(TriageJob(Alert(alert), version))
    assert (version.name, Verdict.FALSE_POSITIVE) == (outcome.trajectory.version, outcome.trajectory.verdict)


async def test_a_version_judged_in_another_format_is_served_and_says_so(
    make_config: Callable[..., ServeConfig],
    make_version: Callable[..., ServedVersion],
    tmp_path: Path,
    until: Callable[..., Any],
) -> None:
    """The first version decides where the pool does not; the other one's report says what to do."""
    config = make_config(tmp_path, **AUTO)
    first, other = (make_version(*named, precision=p) for named, p in ((("a", 20), "BFloat16"), (("b", 21), "Float32")))
    async with serving(config, table(first, other)) as replica:
        await until(lambda: [held.ready for held in replica.report().loaded] == [True, True])
        reports = {held.name: held for held in replica.report().loaded}
    assert ("", "PrecisionMismatch") == (reports[first.name].reason, reports[other.name].reason)
    assert "Set engine.precision of the pool to Float32" in reports[other.name].message


@pytest.mark.parametrize(
    ("pool", "versions", "expected"),
    [
        pytest.param("Float32", ["BFloat16"], Precision.FLOAT32, id="the pool decides"),
        pytest.param("Auto", [None, "BFloat16"], Precision.BFLOAT16, id="the first that recorded it"),
        pytest.param("Auto", [None], Precision.AUTO, id="an earlier release's: as a run here would choose"),
        pytest.param("Auto", [], Precision.AUTO, id="none yet: the same"),
    ],
)
async def test_who_decides(
    pool: str,
    versions: list[str | None],
    expected: Precision,
    make_config: Callable[..., ServeConfig],
    make_version: Callable[..., ServedVersion],
    tmp_path: Path,
) -> None:
    """The pool, then the versions of the table in their order, then the machine."""
    config = make_config(tmp_path, engine={"precision": pool})
    held = [
        make_version(f"c{place}", 30 if named is None else 31, precision=named) for place, named in enumerate(versions)
    ]
    assert expected is await precision_for(config, table(*held))


async def test_a_store_that_hangs_keeps_no_base_from_answering(
    make_config: Callable[..., ServeConfig],
    make_version: Callable[..., ServedVersion],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The format is then the machine's, after a while."""
    answers = threading.Event()
    monkeypatch.setattr(base_precision, "fetch_verified", lambda *_, **__: answers.wait(30))
    held = table(make_version("c1", 31, precision="BFloat16"))
    assert Precision.AUTO is await precision_for(make_config(tmp_path, **AUTO), held, timeout_s=0.1)
    answers.set()


async def test_a_version_that_cannot_be_read_decides_nothing(
    make_config: Callable[..., ServeConfig], make_version: Callable[..., ServedVersion], tmp_path: Path
) -> None:
    """Its own load will say why; the next one decides."""
    config = make_config(tmp_path, **AUTO)
    gone = ServedVersion(name="c0-v1-00000001", uri=str(tmp_path / "gone"), digest=f"sha256:{1:064x}")
    assert Precision.BFLOAT16 is await precision_for(config, table(gone, make_version("c1", 31, precision="BFloat16")))
