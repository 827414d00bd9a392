"""What stands in the way of training, and that it never takes serving away."""

from dataclasses import replace
from typing import Any

import pytest

from socadapter_api import digest, errors
from socadapter_api.adapter import AdapterVersions, SocAdapter, VersionRef
from socadapter_operator.domain import planner, problems, refusal, table
from socadapter_operator.domain.actions import StartRun
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.state import RunState

OTHER_BASE = digest.of_bytes(b"another base")


def condition(plan: Any, kind: str) -> tuple[str, str]:
    found = next(c for c in plan.status.conditions if c.type == kind)
    return found.status.value, found.reason


def no_pool(world: Any) -> None:
    world.pools = {}


def conflict(world: Any) -> None:
    world.others = (world.adapter("aaa", context="cloud"),)


def high_rank(world: Any) -> None:
    world.spec["lora"] = {"rank": 128}


def bad_schedule(world: Any) -> None:
    world.spec["schedule"] = {"cron": "0 2 30 2 *"}


def open_pool(world: Any) -> None:
    world.pool_spec["host"] = "0.0.0.0"


def unserved_engine(world: Any) -> None:
    world.pool_spec["engine"] = {"kind": "vllm"}


def bad_match(world: Any) -> None:
    world.spec["match"] = 'alert.provider in ["aws"'


def no_alerts(world: Any) -> None:
    world.spec["data"] = {"trajectories": [{"uri": "trajectories.jsonl"}]}


def zero3(world: Any) -> None:
    world.spec["compute"] = {"strategy": "DeepSpeedZero3"}


def uneven_batch(world: Any) -> None:
    world.spec |= {"compute": {"workers": 3}, "sft": {"batchSize": 8}}


def uneven_groups(world: Any) -> None:
    world.spec |= {"compute": {"workers": 3}, "sft": {"batchSize": 9}, "grpo": {"alertsPerStep": 8}}


PROBLEMS = [
    pytest.param(no_pool, "PoolNotFound", id="no such pool"),
    pytest.param(conflict, "ContextConflict", id="two adapters for one context"),
    pytest.param(high_rank, "RankTooHigh", id="rank above the pool's"),
    pytest.param(bad_schedule, "InvalidSpec", id="schedule that never fires"),
    pytest.param(bad_match, "InvalidSpec", id="match that is no CEL"),
    pytest.param(no_alerts, "EmptyData", id="no alerts"),
    pytest.param(zero3, "UnsupportedStrategy", id="ZeRO-3"),
    pytest.param(uneven_batch, "InvalidSpec", id="batch that workers cannot share"),
    pytest.param(uneven_groups, "InvalidSpec", id="groups that workers cannot share"),
]
POOL_PROBLEMS = [
    pytest.param(open_pool, "InsecureBind", id="open to everyone"),
    pytest.param(unserved_engine, "InvalidSpec", id="engine that is not served"),
]


@pytest.mark.parametrize(("cause", "reason"), [*PROBLEMS, *POOL_PROBLEMS])
def test_a_problem_stalls_and_starts_nothing(cause: Any, reason: str, world: Any) -> None:
    """Each has its reason in `Stalled` and `Ready`, with a message that says what to do."""
    cause(world)
    plan = world.plan()
    assert ((), ("True", reason), ("False", reason)) == (
        plan.actions,
        condition(plan, "Stalled"),
        condition(plan, "Ready"),
    )
    assert ("False", "Stalled") == condition(plan, "Reconciling")
    message = next(c.message for c in plan.status.conditions if c.type == "Stalled")
    assert len(message) > 20


@pytest.mark.parametrize(("cause", "reason"), PROBLEMS[2:])
def test_a_bad_spec_over_a_good_one_keeps_the_good_version(cause: Any, reason: str, world: Any) -> None:
    """The last good version serves, and mending the spec recovers by itself."""
    old = world.serving()
    cause(world)
    plan = world.take(world.plan())
    assert (old.version, ("True", "Serving"), ("True", reason)) == (
        plan.status.versions.stable.name,
        condition(plan, "Ready"),
        condition(plan, "Stalled"),
    )
    world.spec.clear()
    plan = world.plan()
    assert (("False", "Settled"), ()) == (condition(plan, "Stalled"), plan.actions)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"data": {"feedback": {"minVerdicts": 5}}}, id="verdicts in the place of alerts"),
        pytest.param({"compute": {"workers": 3}, "sft": {"epochs": 0}, "grpo": {"steps": 0}}, id="nothing to share"),
        pytest.param(
            {"compute": {"workers": 3}, "sft": {"batchSize": 9}, "grpo": {"alertsPerStep": 6}}, id="even shares"
        ),
    ],
)
def test_what_a_run_can_do_is_no_problem(spec: dict[str, Any], world: Any) -> None:
    """The checks of the spec refuse nothing that `prepare` would take."""
    world.spec |= spec
    assert ("False", "Progressing") == condition(world.plan(), "Stalled")


def test_a_pool_that_appears_later_is_found(world: Any) -> None:
    """`PoolNotFound` goes away by itself when the pool is there."""
    world.pools = {}
    world.take(world.plan())
    world.pools = None
    plan = world.plan()
    assert (1, ("False", "Progressing")) == (len(plan.actions), condition(plan, "Stalled"))


def test_the_context_stays_with_the_adapter_that_serves_it(world: Any) -> None:
    """A newcomer whose name sorts first takes nothing away."""
    world.serving()
    world.others = (
        world.adapter("aaa", context="cloud").model_copy(
            update={"status": world.adapter().status.model_copy(update={"versions": AdapterVersions()})}
        ),
    )
    assert ("False", "Settled") == condition(world.plan(), "Stalled")


@pytest.mark.parametrize(
    ("born", "other_born", "owned"),
    [
        pytest.param("2026-01-01T00:00:02Z", "2026-01-01T00:00:01Z", False, id="the other is older"),
        pytest.param("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z", True, id="the other is younger"),
        pytest.param("2026-01-01T00:00:01Z", "2026-01-01T00:00:01Z", True, id="of one second, and this one trains"),
    ],
)
def test_the_older_claim_to_a_context_counts(born: str, other_born: str, owned: bool, world: Any) -> None:
    """Before its name: a run that trains for the older one is nothing to a newcomer whose name sorts first."""
    world.take(world.plan())  # it trains
    others = (claim(world.adapter("aaa", context="cloud"), other_born, last_number=0, run=None),)
    this = claim(world.adapter(), born)
    found = planner.plan(this, replace(world.observed, claims=tuple(map(Claim.of, (this, *others)))), world.now)
    assert (("False", "Progressing") if owned else ("True", "ContextConflict")) == condition(found, "Stalled")


def claim(adapter: SocAdapter, born: str, **status: Any) -> SocAdapter:
    return adapter.model_copy(
        update={
            "metadata": adapter.metadata.model_copy(update={"creation_timestamp": born}),
            "status": adapter.status.model_copy(update=status),
        }
    )


def test_a_pool_without_tools_is_told_once_and_trains(world: Any) -> None:
    """What learns from recorded evidence can be trained and judged there, and will not serve: said before it costs."""

    def warnings(plan: Any) -> list[tuple[str, bool]]:
        assert [StartRun] == [type(action) for action in plan.actions]
        return [(note.reason, "'base' names no tools" in note.message) for note in plan.notes if note.warning]

    assert [("ToolSchemaMismatch", True)] == warnings(world.plan())
    world.status["run"] = world.run(state="Absent", attempt=1)
    assert [] == warnings(world.plan())
    del world.status["run"]
    world.pool_spec["tools"] = [{"name": "telemetry", "url": "http://127.0.0.1:8700/mcp"}]
    assert [] == warnings(world.plan())


def test_a_base_that_is_not_resolved_yet_is_waited_for(world: Any) -> None:
    """It is no problem that a person must mend."""
    world.pools = {"base": world.pool(base=None)}
    plan = world.plan()
    assert ((), ("True", "BaseUnresolved"), "False") == (
        plan.actions,
        condition(plan, "Reconciling"),
        condition(plan, "Stalled")[0],
    )
    assert plan.requeue_after is not None


def test_an_adapter_pointed_at_another_base_serves_where_it_was(world: Any) -> None:
    """`BaseMismatch`: nothing trains, the old pool's table keeps the version, and pointing back mends it."""
    old = world.serving()
    pools = {"base": world.pool(), "bigger": world.pool("bigger", base=OTHER_BASE)}
    world.pools = pools
    world.spec["servingPoolRef"] = {"name": "bigger"}
    plan = world.take(world.plan())
    assert ((), ("True", "BaseMismatch"), ("True", "Serving"), "base") == (
        plan.actions,
        condition(plan, "Stalled"),
        condition(plan, "Ready"),
        plan.status.serving_pool,
    )
    tables = {name: table.build(pool, [Claim.of(world.adapter())], None) for name, pool in pools.items()}
    assert ([old.version], []) == (list(tables["base"].versions()), list(tables["bigger"].versions()))
    world.spec["servingPoolRef"] = {"name": "base"}
    plan = world.plan()
    assert ((), ("False", "Settled"), ("True", "Serving")) == (
        plan.actions,
        condition(plan, "Stalled"),
        condition(plan, "Ready"),
    )


def test_a_pool_with_the_same_base_takes_the_adapter_over(world: Any) -> None:
    """No training: the version moves with its adapter."""
    old = world.serving()
    world.pools = {"base": world.pool(), "spare": world.pool("spare")}
    world.spec["servingPoolRef"] = {"name": "spare"}
    plan = world.plan()
    assert ((), "spare", old.version) == (plan.actions, plan.status.serving_pool, plan.status.versions.stable.name)


def test_a_finished_run_counts_although_a_problem_came_up(world: Any) -> None:
    """What was trained is recorded even while the spec is bad; it only does not start to serve."""
    from socadapter_api.manifest import Outcome

    world.status["run"] = world.run()
    world.sees(RunState.RUNNING, world.evidence(Outcome.PUBLISHED))
    world.spec["schedule"] = {"cron": "0 2 30 2 *"}
    plan = world.plan()
    assert (1, None) == (len(plan.actions), plan.status.versions.stable)


def test_a_version_that_no_replica_accepts_is_told(world: Any) -> None:
    """A replica's refusal is the reason in `Serving`, `Degraded` and `Ready`."""
    old = world.serving()
    world.loaded, world.refused = (), {old.version: "SignatureInvalid"}
    plan = world.plan()
    for kind, status in (("Serving", "False"), ("Degraded", "True"), ("Ready", "False"), ("Stalled", "True")):
        assert (status, "SignatureInvalid") == condition(plan, kind)


def test_a_loaded_version_of_other_bytes_is_not_ours(world: Any) -> None:
    """A replica that holds the name with another digest does not make the adapter ready."""
    old = world.serving()
    ref = VersionRef(name=old.version, digest=OTHER_BASE, uri=old.uri)
    world.status["versions"] = AdapterVersions(stable=ref)
    assert "False" == condition(world.plan(), "Ready")[0]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The expressions that were read, in order."""
    asked: list[str] = []

    def noted(expression: str) -> str:
        asked.append(expression)
        return ""

    monkeypatch.setattr(problems, "fault", noted)
    return asked


def test_a_match_that_was_found_well_is_not_read_again(world: Any, read: list[str]) -> None:
    """Not before the spec changes: after a restart, thousands of expressions would be read in a row."""
    world.spec["match"] = "alert.first"
    world.take(world.plan())
    world.take(world.plan())
    assert ["alert.first"] == read
    world.spec["match"], world.generation = "alert.second", 2
    world.take(world.plan())
    world.take(world.plan())
    assert ["alert.first", "alert.second"] == read


def test_a_match_of_a_plan_that_failed_is_read(world: Any, read: list[str]) -> None:
    """`Stalled` is False there, too, and nobody has looked at the spec."""
    world.spec["match"] = "alert.first"
    error = errors.BackendUnavailable("no answer")
    world.status = {"conditions": refusal.conditions((), world.generation, error, world.now)}
    world.plan()
    assert ["alert.first"] == read
