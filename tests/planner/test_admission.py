"""One condition, `Admitted`, says whether the run in progress runs, and why not: whatever caused the run."""

from typing import Any

import pytest

from socadapter_api.adapter import TRAIN_REQUESTED_AT
from socadapter_api.manifest import Progress, Stage
from socadapter_operator.domain.state import BackendRun, Evidence, RunState, settle


def admitted(plan: Any) -> tuple[str, str, str]:
    (found,) = [condition for condition in plan.status.conditions if condition.type == "Admitted"]
    return found.status.value, found.reason, found.message


CAUSES = [
    pytest.param({}, id="a new spec"),
    pytest.param({TRAIN_REQUESTED_AT: "2026-03-02T11:59:00Z"}, id="a request beside a version"),
]


@pytest.mark.parametrize("annotations", CAUSES)
@pytest.mark.parametrize(
    ("state", "reason", "status"),
    [
        pytest.param(RunState.QUEUED, "Pending", "False", id="Kueue"),
        pytest.param(RunState.STARTING, "Unschedulable", "False", id="no node"),
        pytest.param(RunState.STARTING, "ImagePullBackOff", "False", id="no image"),
        pytest.param(RunState.STARTING, "QuotaExceeded", "False", id="quota"),
        pytest.param(RunState.STARTING, "", "False", id="on its way"),
        pytest.param(RunState.RUNNING, "", "True", id="running"),
        pytest.param(RunState.UNKNOWN, "BackendUnavailable", "Unknown", id="nobody can say"),
        pytest.param(RunState.FAILED, "RunLost", "False", id="before a retry"),
    ],
)
def test_a_run_says_why_it_does_not_run(
    world: Any, annotations: dict[str, str], state: RunState, reason: str, status: str
) -> None:
    """With the reason and the words of the backend."""
    if annotations:
        world.serving()
    world.annotations = annotations
    world.take(world.plan())
    run_id = world.status["run"].run_id
    world.runs = {run_id: settle(BackendRun(state, reason, "0/3 nodes", retryable=True), Evidence())}
    plan = world.take(world.plan())
    expected = reason or ("Running" if state is RunState.RUNNING else state.value)
    assert (status, expected) == admitted(plan)[:2]
    assert ("0/3 nodes" in admitted(plan)[2]) == (state is not RunState.RUNNING)


def test_progress_is_no_part_of_it(world: Any) -> None:
    """A step more does not change the condition."""
    world.take(world.plan())
    told = set()
    for step in (1, 2):
        progress = Progress(stage=Stage.SFT, step=step, steps=9, at=0.0)
        world.runs = {world.spec_run: settle(BackendRun(RunState.RUNNING), Evidence(progress=progress))}
        told.add(admitted(world.take(world.plan())))
    assert 1 == len(told)


@pytest.mark.parametrize(
    ("spec", "status", "reason"),
    [
        pytest.param({"lora": {"rank": 512}}, "False", "RankTooHigh", id="a fault in the spec"),
        pytest.param({"suspend": True}, "False", "Suspended", id="suspended"),
        pytest.param({}, "Unknown", "NoRun", id="nothing to do"),
    ],
)
def test_without_a_run_it_says_what_is_in_the_way(world: Any, spec: dict[str, Any], status: str, reason: str) -> None:
    """Of an adapter at rest, nothing is."""
    world.serving()
    world.spec |= spec
    assert (status, reason) == admitted(world.plan())[:2]
