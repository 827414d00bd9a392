"""The plan for a pool: its table, and what its replicas make of it."""

from datetime import timedelta
from typing import Any

import pytest

from socadapter_api.serving_table import LOADING, LoadedVersion, ReplicaReport, ServingTable
from socadapter_operator.domain import table
from socadapter_operator.domain.actions import ApplyTable
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.observed import PoolObserved, ServingState, ServingView
from socadapter_operator.domain.pool_planner import STALLED_AFTER, plan_pool


def condition(plan: Any, kind: str) -> tuple[str, str]:
    found = next(c for c in plan.status.conditions if c.type == kind)
    return found.status.value, found.reason


def running(world: Any, held: ServingTable, generation: int | None = None, **changes: Any) -> PoolObserved:
    report = ReplicaReport(replica="r0", generation=held.generation if generation is None else generation)
    fields = {"endpoint": "http://127.0.0.1:8000", "reports": (report,), "table": held, **changes}
    return PoolObserved(ServingView(ServingState.RUNNING, **fields))


def planned(world: Any, observed: PoolObserved) -> Any:
    return plan_pool(world.pool(), [Claim.of(world.adapter())], observed, world.now)


def test_a_pool_is_started_with_the_versions_of_its_adapters(world: Any) -> None:
    """The table names context, expression, stable version and the base."""
    version = world.serving()
    world.spec["match"] = "alert.sensor == 'cloud'"
    plan = planned(world, PoolObserved())
    (apply,) = plan.actions
    assert isinstance(apply, ApplyTable)
    (route,) = apply.table.routes
    assert route.stable is not None
    assert ("cloud", "alert.sensor == 'cloud'", version.version, 1) == (
        route.context,
        route.match,
        route.stable.name,
        apply.table.generation,
    )
    assert ("False", "NotStarted") == condition(plan, "Ready")


def test_a_table_that_is_served_is_left_alone(world: Any) -> None:
    """At rest a pool has nothing to do, and its generation stays."""
    world.serving()
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    plan = planned(world, running(world, held))
    assert ((), ("True", "Serving"), 1) == (plan.actions, condition(plan, "Ready"), plan.status.table_generation)


def test_a_changed_route_is_a_new_generation(world: Any) -> None:
    """Replicas can be told apart by the table that they hold."""
    world.serving()
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    world.spec["match"] = "true"
    plan = planned(world, running(world, held))
    assert [2] == [action.table.generation for action in plan.actions]
    assert ("True", "Serving") == condition(plan, "Ready")


def test_a_replica_with_an_old_table_keeps_the_pool_reconciling(world: Any) -> None:
    """Ready, because it answers; reconciling, because it is behind."""
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    plan = planned(world, running(world, held, generation=0))
    assert (("True", "Serving"), ("True", "RollingOut")) == (condition(plan, "Ready"), condition(plan, "Reconciling"))
    assert plan.requeue_after is not None


def test_a_changed_pool_is_applied_again(world: Any) -> None:
    """A backend that runs with another spec is told the present one."""
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    assert 1 == len(planned(world, running(world, held, outdated=True)).actions)


def test_an_update_that_did_not_take_degrades_the_pool(world: Any) -> None:
    """What serves goes on and is `Ready`; what Ray said about the update is told, and nothing is tried in a loop."""
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    plan = planned(world, running(world, held, reason="UpdateFailed", message="no module named x"))
    assert ((), ("True", "UpdateFailed")) == (plan.actions, condition(plan, "Degraded"))
    assert ("True", "Serving") == condition(plan, "Ready")


@pytest.mark.parametrize(
    ("retryable", "stalled"),
    [pytest.param(True, "False", id="a dashboard is silent"), pytest.param(False, "True", id="a token is refused")],
)
def test_a_pool_out_of_sight_goes_on_serving(world: Any, retryable: bool, stalled: str) -> None:
    """Its gateway answers, and nothing else can be asked: `Ready` and the table stay, nothing is sent."""
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    seen = running(world, held)
    before = planned(world, seen)
    pool = world.pool().model_copy(update={"status": before.status})
    view = ServingView(
        ServingState.RUNNING,
        endpoint=before.status.endpoint,
        reports=seen.serving.reports,
        reason="Hidden",
        message="why",
        retryable=retryable,
        unseen=True,
    )
    plan = plan_pool(pool, [Claim.of(world.adapter())], PoolObserved(view), world.now)
    assert ((), ("True", "Serving"), ("True", "Hidden")) == (
        plan.actions,
        condition(plan, "Ready"),
        condition(plan, "Degraded"),
    )
    assert (stalled, "False") == (condition(plan, "Stalled")[0], condition(plan, "Reconciling")[0])
    assert (before.status.table_generation, before.status.endpoint, before.status.replicas) == (
        plan.status.table_generation,
        plan.status.endpoint,
        plan.status.replicas,
    )
    assert plan.requeue_after is not None


def test_where_a_pool_answered_is_not_forgotten_while_nobody_can_say(world: Any) -> None:
    """It is not `Ready` any more; once it answers there again it can be seen."""
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    pool = world.pool().model_copy(update={"status": planned(world, running(world, held)).status})
    hidden = PoolObserved(ServingView(ServingState.UNKNOWN, reason="BackendUnavailable"))
    plan = plan_pool(pool, [Claim.of(world.adapter())], hidden, world.now)
    assert (("False", "BackendUnavailable"), pool.status.endpoint) == (condition(plan, "Ready"), plan.status.endpoint)


def test_a_refused_version_degrades_the_pool(world: Any) -> None:
    """With the replica's own reason."""
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    bad = LoadedVersion(name="x-v1-00000000", digest="sha256:" + "0" * 64, ready=False, reason="DigestMismatch")
    report = ReplicaReport(replica="r0", generation=held.generation, loaded=(bad,))
    plan = planned(world, running(world, held, reports=(report,)))
    assert (("True", "DigestMismatch"), ("True", "Serving")) == (condition(plan, "Degraded"), condition(plan, "Ready"))


def test_a_version_that_is_being_loaded_is_waited_for(world: Any) -> None:
    """The replica says that it is loading: nothing is degraded, and somebody looks again."""
    stable = world.serving()
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    load = LoadedVersion(name=stable.version, digest=stable.digest, ready=False, reason=LOADING)
    report = ReplicaReport(replica="r0", generation=held.generation, loaded=(load,))
    plan = planned(world, running(world, held, reports=(report,)))
    assert "False" == condition(plan, "Degraded")[0]
    assert plan.requeue_after is not None


def test_a_machine_that_trains_first_serves_when_there_is_a_version(world: Any) -> None:
    """`hold` keeps the pool down only until something can be served."""
    plan = planned(world, PoolObserved(hold=True))
    assert ((), ("False", "WaitingForVersion")) == (plan.actions, condition(plan, "Ready"))
    world.serving()
    assert 1 == len(planned(world, PoolObserved(hold=True)).actions)


def test_serving_that_died_is_started_again_after_growing_pauses(world: Any) -> None:
    """And after several failures in a row somebody is told to look."""
    views = [
        ServingView(ServingState.FAILED, failures=failures, failed_at=world.now)
        for failures in range(1, STALLED_AFTER + 1)
    ]
    plans = [planned(world, PoolObserved(view)) for view in views]
    assert [()] * STALLED_AFTER == [plan.actions for plan in plans]
    waits = [plan.requeue_after for plan in plans]
    assert waits == sorted(waits)
    assert ("True", "EngineUnavailable") == condition(plans[-1], "Stalled")
    later = ServingView(ServingState.FAILED, failures=9, failed_at=world.now - timedelta(hours=1))
    assert 1 == len(planned(world, PoolObserved(later)).actions)


@pytest.mark.parametrize("hold", [True, False])
def test_a_pool_that_cannot_start_says_why(hold: bool, world: Any) -> None:
    """A base that is not there stalls the pool, and nothing is started."""
    view = ServingView(reason="BaseNotFound", message="no such folder", retryable=False)
    plan = planned(world, PoolObserved(view, hold))
    assert ((), ("True", "BaseNotFound"), ("False", "BaseNotFound")) == (
        plan.actions,
        condition(plan, "Stalled"),
        condition(plan, "Ready"),
    )


WRONG_SPECS = [
    pytest.param({"host": "0.0.0.0"}, "InsecureBind", id="open to everyone"),
    pytest.param({"engine": {"kind": "vllm"}}, "InvalidSpec", id="engine that is not served"),
]


@pytest.mark.parametrize(("spec", "reason"), WRONG_SPECS)
@pytest.mark.parametrize("hold", [True, False])
def test_a_pool_that_cannot_serve_as_written_is_never_started(
    hold: bool, spec: dict[str, Any], reason: str, world: Any
) -> None:
    """It says so at once, also where it would wait for a first version."""
    world.pool_spec = spec
    plan = planned(world, PoolObserved(hold=hold))
    assert ((), ("True", reason), ("False", reason), ("False", "Settled")) == (
        plan.actions,
        *(condition(plan, kind) for kind in ("Stalled", "Ready", "Reconciling")),
    )


@pytest.mark.parametrize(("spec", "reason"), WRONG_SPECS)
def test_a_wrong_pool_over_a_good_one_goes_on_serving(spec: dict[str, Any], reason: str, world: Any) -> None:
    """What answers is left as it is, and the pool says what is wrong with its spec."""
    held = table.build(world.pool(), [Claim.of(world.adapter())], None)
    world.pool_spec = spec
    plan = planned(world, running(world, held, outdated=True))
    assert ((), ("True", reason), ("True", "Serving")) == (
        plan.actions,
        condition(plan, "Stalled"),
        condition(plan, "Ready"),
    )


def test_a_pool_whose_address_another_keeps_is_not_started(world: Any) -> None:
    """Two services on one address would share its callers without a word."""
    plan = planned(world, PoolObserved(rival="soc/other"))
    assert ((), ("True", "InvalidSpec"), ("False", "InvalidSpec")) == (
        plan.actions,
        condition(plan, "Stalled"),
        condition(plan, "Ready"),
    )


@pytest.mark.parametrize(
    ("contexts", "callers"),
    [
        pytest.param([[], []], (), id="everybody everywhere"),
        pytest.param([["cloud"], ["office"]], ("caller-0",), id="one of two"),
        pytest.param([["office"], ["office"]], ("",), id="nobody"),
        pytest.param([["cloud"], []], ("caller-0", "caller-1"), id="one by name, one by default"),
    ],
)
def test_callers_of_a_route(contexts: list[list[str]], callers: tuple[str, ...], world: Any) -> None:
    """A route admits the callers that the pool lets into its context, and no list admits everybody by accident."""
    world.pool_spec["callers"] = [
        {"name": f"caller-{i}", "tokenSecretRef": {"name": "tokens"}, "contexts": names}
        for i, names in enumerate(contexts)
    ]
    (route,) = table.build(world.pool(), [Claim.of(world.adapter())], None).routes
    assert callers == route.callers


def test_two_adapters_for_one_context_make_one_route(world: Any) -> None:
    """The table stays valid whatever the resources say."""
    claims = [Claim.of(world.adapter()), Claim.of(world.adapter("aaa", context="cloud"))]
    assert ["cloud"] == [route.context for route in table.build(world.pool(), claims, None).routes]
