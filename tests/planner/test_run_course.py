"""What the planner does about a run in each of its states."""

from datetime import timedelta
from typing import Any

import pytest

from socadapter_api import digest
from socadapter_api.adapter import AdapterStatus, AdapterVersions, VersionRef
from socadapter_api.manifest import Outcome
from socadapter_api.serving_table import LOADING
from socadapter_operator.domain import course
from socadapter_operator.domain.actions import RecordVersion, StartRun, StopRun
from socadapter_operator.domain.state import Evidence, Marker, RunState, Verification


def condition(plan: Any, kind: str) -> tuple[str, str]:
    found = next(c for c in plan.status.conditions if c.type == kind)
    return found.status.value, found.reason


def test_a_new_adapter_starts_its_run(world: Any) -> None:
    """The first plan starts one run, with everything that the spec and the pool say."""
    plan = world.plan()
    (start,) = plan.actions
    assert isinstance(start, StartRun)
    assert (world.spec_run, "cloud", 1, world.wanted) == (
        start.spec.run_id,
        start.spec.context,
        start.spec.version_number,
        start.spec.training_hash,
    )
    assert ("Starting", 1, "2026-03-02T12:00:00Z") == (
        plan.status.run.state,
        plan.status.last_number,
        plan.status.run.started_at,
    )
    assert (("False", "Training"), ("True", "Training")) == (condition(plan, "Ready"), condition(plan, "Reconciling"))


def test_a_run_is_measured_on_no_more_other_contexts_than_it_may_be_told(world: Any) -> None:
    """Beside seventy others it is planned all the same, with the holdouts of the first by name."""
    names = [f"other-{number:02}" for number in range(70)]
    data = {"alerts": [{"uri": "alerts.jsonl"}], "holdout": [{"uri": "holdout.jsonl"}]}
    world.others = tuple(world.adapter(name, data=data) for name in reversed(names))
    (start,) = world.plan().actions
    assert names[:64] == list(start.spec.other_contexts)


def test_a_run_is_told_which_runs_made_what_serves_the_other_contexts(world: Any) -> None:
    """Those of its pool that have a version; its own earlier one is its parent."""
    data = {"alerts": [{"uri": "alerts.jsonl"}], "holdout": [{"uri": "holdout.jsonl"}]}
    stable = VersionRef(name="mail-v1", digest=digest.of_bytes(b"weights"), uri="/store/soc/mail/mail-1-a")
    status = AdapterStatus(versions=AdapterVersions(stable=stable))
    mail = world.adapter("mail", data=data).model_copy(update={"status": status})
    world.others = (mail, world.adapter("web", data=data))
    (start,) = world.plan().actions
    assert ("/store/soc/mail/mail-1-a",) == start.spec.other_runs
    assert {"mail", "web"} == set(start.spec.other_contexts)


def test_a_run_is_told_which_keys_the_pool_trusts(world: Any) -> None:
    """Its parent may bear an earlier key's signature."""
    world.pool_spec = {"trust": {"publicKeys": ["an earlier key", "the key of today"]}}
    (start,) = world.plan().actions
    assert ("an earlier key", "the key of today") == start.spec.trusted_keys


@pytest.mark.parametrize(
    ("state", "actions"),
    [
        pytest.param(RunState.ABSENT, [StartRun], id="absent: start"),
        pytest.param(RunState.QUEUED, [], id="queued: wait"),
        pytest.param(RunState.STARTING, [], id="starting: wait"),
        pytest.param(RunState.RUNNING, [], id="running: watch"),
        pytest.param(RunState.UNKNOWN, [], id="unknown: wait"),
        pytest.param(RunState.SUCCEEDED, [], id="succeeded without artifacts: a failure, retried after a pause"),
        pytest.param(RunState.FAILED, [], id="failed: retried after a pause"),
    ],
)
def test_actions_by_state(state: RunState, actions: list[type], world: Any) -> None:
    """Each state of the run in progress has its action, and none loses the run."""
    world.status["run"] = world.run()
    world.sees(state)
    plan = world.plan()
    assert actions == [type(action) for action in plan.actions]
    assert plan.status.run.run_id == world.spec_run


def test_planning_again_before_anything_happened_starts_the_same_run(world: Any) -> None:
    """A crash between the start and the status write ends in the same run, not in a second one."""
    assert world.plan() == world.plan()
    world.sees(RunState.RUNNING)
    plan = world.plan()
    assert ((), world.spec_run, 1) == (plan.actions, plan.status.run.run_id, plan.status.last_number)


def test_a_published_run_is_recorded_and_goes_straight_to_stable(world: Any) -> None:
    """Evidence complete and verified: one version, stable, with the number and digest of its manifest."""
    world.status["run"] = world.run()
    world.sees(RunState.RUNNING, world.evidence(Outcome.PUBLISHED))
    plan = world.plan()
    (record,) = plan.actions
    assert isinstance(record, RecordVersion)
    assert record.version.version == plan.status.versions.stable.name
    assert (None, "Published") == (plan.status.run, plan.status.last_run.reason)
    assert ("True", "Published") == condition(plan, "Trained")
    assert ("False", "Loading") == condition(plan, "Ready")


def test_the_version_before_is_kept_as_previous_and_ready_never_drops(world: Any) -> None:
    """While the new version loads, the old one answers."""
    old = world.serving()
    world.spec["lora"] = {"rank": 4}
    world.status["run"] = world.run(number=2)
    world.sees(RunState.SUCCEEDED, world.evidence(Outcome.PUBLISHED, number=2))
    plan = world.take(world.plan())
    assert (old.version, ("True", "ServingPrevious")) == (plan.status.versions.previous.name, condition(plan, "Ready"))
    assert ("True", "Loading") == condition(plan, "Reconciling")


def test_a_version_that_a_replica_is_loading_stalls_nothing(world: Any) -> None:
    """Its replica's "Loading" is no refusal: the adapter is under way until the version answers."""
    stable = world.serving()
    world.loaded, world.refused = (), {stable.version: LOADING}
    plan = world.plan()
    assert ("True", "Loading") == condition(plan, "Reconciling")
    assert ["False", "False"] == [condition(plan, kind)[0] for kind in ("Stalled", "Degraded")]
    assert ("False", "Loading") == condition(plan, "Ready")


@pytest.mark.parametrize(
    ("verification", "reason"),
    [
        pytest.param(
            Verification(False, reason="SignatureInvalid", message="unsigned"), "SignatureInvalid", id="unsigned"
        ),
        pytest.param(Verification(False, reason="UnsafeFormat", message="pickle"), "UnsafeFormat", id="pickle"),
    ],
)
def test_an_adapter_that_fails_its_checks_is_never_recorded(
    verification: Verification, reason: str, world: Any
) -> None:
    """A published result with bad bytes is a failed run; what served before goes on."""
    old = world.serving()
    world.spec["lora"] = {"rank": 4}
    world.status["run"] = world.run(number=2)
    evidence = world.evidence(Outcome.PUBLISHED, number=2)
    world.sees(RunState.SUCCEEDED, Evidence(Marker.SUCCESS, evidence.result, evidence.manifest, verification))
    plan = world.plan()
    assert ((), old.version) == (plan.actions, plan.status.versions.stable.name)
    assert (("False", reason), ("True", reason), ("True", "Serving")) == (
        condition(plan, "Trained"),
        condition(plan, "Degraded"),
        condition(plan, "Ready"),
    )


def test_a_result_of_another_run_is_not_taken(world: Any) -> None:
    """The run id in the result must be the run's."""
    world.status["run"] = world.run()
    world.sees(RunState.SUCCEEDED, world.evidence(Outcome.PUBLISHED, run_id="somebody-elses"))
    plan = world.plan()
    assert ((), None, "ManifestInvalid") == (plan.actions, plan.status.versions.stable, plan.status.last_run.reason)


@pytest.mark.parametrize(
    ("outcome", "trained", "degraded"),
    [
        pytest.param(Outcome.GATE_FAILED, ("False", "GateFailed"), "True", id="failed gate"),
        pytest.param(Outcome.SKIPPED, ("True", "Skipped"), "False", id="skipped"),
        pytest.param(Outcome.FAILED, ("False", "OneClass"), "True", id="failed for good"),
    ],
)
def test_a_night_without_a_version_leaves_serving_alone(
    outcome: Outcome, trained: tuple[str, str], degraded: str, world: Any
) -> None:
    """`Trained` and `Degraded` tell it; `Ready` and the stable version stay."""
    old = world.serving()
    world.status["run"] = world.run("cloud-tick")
    told = world.evidence(outcome, run_id="cloud-tick", reason="OneClass" if outcome is Outcome.FAILED else "")
    world.sees(RunState.FAILED, told, run_id="cloud-tick")
    plan = world.plan()
    assert (old.version, ("True", "Serving")) == (plan.status.versions.stable.name, condition(plan, "Ready"))
    assert (trained, degraded) == (condition(plan, "Trained"), condition(plan, "Degraded")[0])
    assert ("False", "Settled") == condition(plan, "Stalled")
    assert plan.status.run is None


def test_a_first_run_that_fails_for_good_stalls(world: Any) -> None:
    """Nothing serves and nothing will happen by itself: `Stalled`, with the reason of the error tree."""
    world.status["run"] = world.run()
    world.sees(RunState.FAILED, world.evidence(Outcome.FAILED, reason="OneClass", message="one class only"))
    plan = world.take(world.plan())
    assert (("False", "OneClass"), ("True", "OneClass")) == (condition(plan, "Ready"), condition(plan, "Stalled"))
    again = world.plan()
    assert ((), None) == (again.actions, again.status.run)


def test_retries_resume_the_same_run_with_growing_pauses_and_a_limit(world: Any) -> None:
    """Each retry has the run's id; after the last one the run has failed."""
    world.take(world.plan())
    pauses = []
    for attempt in range(1, course.MAX_RETRIES + 1):
        world.sees(RunState.FAILED, message="killed")
        waiting = world.take(world.plan())
        assert ((), "Failed") == (waiting.actions, waiting.status.run.state)
        pauses.append(waiting.requeue_after)
        world.now += waiting.requeue_after
        (start,) = world.take(world.plan()).actions
        assert (world.spec_run, attempt) == (start.spec.run_id, start.attempt)
    assert pauses == sorted(pauses)
    assert timedelta(0) < pauses[0] < pauses[-1] <= timedelta(minutes=5)
    world.sees(RunState.FAILED, message="killed")
    plan = world.take(world.plan())
    assert (None, "Failed", "RunLost") == (plan.status.run, plan.status.last_run.state, plan.status.last_run.reason)


def test_an_interrupted_run_resumes_at_once_and_costs_no_retry(world: Any) -> None:
    """Ctrl-C is no failure."""
    world.status["run"] = world.run(attempt=course.MAX_RETRIES)
    world.sees(RunState.FAILED, reason="RunInterrupted", retryable=True)
    (start,) = world.plan().actions
    assert isinstance(start, StartRun)
    assert start.attempt == course.MAX_RETRIES


def test_a_clock_that_went_back_does_not_stretch_a_pause(world: Any) -> None:
    """An hour back makes a retry wait minutes at most, not an hour more."""
    world.status["run"] = world.run(state="Failed", finished_at="2026-03-02T13:00:00Z")
    world.sees(RunState.FAILED)
    assert world.plan().requeue_after <= timedelta(minutes=5)


def test_an_edited_spec_stops_the_run_of_the_old_one_and_starts_its_own(world: Any) -> None:
    """The obsolete run is asked to stop, and only when it has ended the new one starts."""
    world.take(world.plan())
    old = world.spec_run
    world.sees(RunState.RUNNING)
    world.spec["lora"] = {"rank": 4}
    plan = world.take(world.plan())
    (stop,) = plan.actions
    assert isinstance(stop, StopRun)
    assert (old, "Superseded") == (stop.run_id, plan.status.run.reason)
    world.sees(RunState.FAILED, run_id=old, reason="RunInterrupted")
    plan = world.take(world.plan())
    (start,) = plan.actions
    assert (world.spec_run, 2, "Superseded") == (
        start.spec.run_id,
        start.spec.version_number,
        plan.status.last_run.reason,
    )


def test_an_adapter_that_is_suspended_starts_nothing_and_serves_on(world: Any) -> None:
    """`suspend` stops new runs, retries included, and leaves a running one and serving alone."""
    world.serving()
    world.spec |= {"suspend": True, "lora": {"rank": 4}}
    plan = world.plan()
    assert ((), None, ("True", "Serving")) == (plan.actions, plan.status.run, condition(plan, "Ready"))
    world.status["run"] = world.run()
    world.sees(RunState.FAILED)
    plan = world.plan()
    assert ((), "False") == (plan.actions, condition(plan, "Reconciling")[0])
    world.sees(RunState.RUNNING)
    assert (("True", "Training"), ()) == (condition(world.plan(), "Reconciling"), world.plan().actions)


def test_a_store_that_cannot_be_read_decides_nothing(world: Any) -> None:
    """While evidence is unreadable, a run that ended is neither failed nor published."""
    world.status["run"] = world.run()
    world.sees(RunState.FAILED, Evidence(Marker.UNREADABLE, message="no route to store"))
    plan = world.plan()
    assert ((), "Unknown", "StoreUnavailable") == (plan.actions, plan.status.run.state, plan.status.run.reason)
    assert plan.requeue_after is not None
