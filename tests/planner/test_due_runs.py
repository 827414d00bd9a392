"""When a run is due, and that causes that come together make one run."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from socadapter_api import digest
from socadapter_api.adapter import TRAIN_REQUESTED_AT
from socadapter_api.manifest import Outcome
from socadapter_operator.domain.actions import StartRun, StopRun
from socadapter_operator.domain.state import RunState, Verification

OTHER = digest.of_bytes(b"another spec")
NIGHTLY = {"cron": "0 2 * * *", "timeZone": "UTC", "startingDeadline": "2h"}


def started(plan: Any) -> str | None:
    return next((action.spec.run_id for action in plan.actions if isinstance(action, StartRun)), None)


def scheduled(world: Any, **changes: Any) -> None:
    """A settled adapter whose schedule was seen yesterday at noon."""
    world.spec["schedule"] = {**NIGHTLY, **changes}
    world.serving()
    world.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    world.take(world.plan())
    assert world.status["next_schedule_time"] == "2026-03-02T02:00:00Z"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"rollout": {"mode": "Manual"}}, id="rollout"),
        pytest.param({"schedule": NIGHTLY}, id="schedule"),
        pytest.param({"match": "true"}, id="match"),
        pytest.param({"evaluation": {"missBudget": 0.1}}, id="evaluation"),
        pytest.param({"compute": {"workers": 2}}, id="compute"),
        pytest.param({"history": {"failed": 1}}, id="history"),
    ],
)
def test_what_does_not_change_learning_does_not_train(changes: dict[str, Any], world: Any) -> None:
    """Only data, lora, sft, grpo and the base's digest make a spec new."""
    world.serving()
    world.spec |= changes
    assert started(world.plan()) is None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"lora": {"rank": 4}}, id="lora"),
        pytest.param({"sft": {"epochs": 2}}, id="sft"),
        pytest.param({"grpo": {"steps": 1}}, id="grpo"),
        pytest.param({"data": {"alerts": [{"uri": "/data/alerts.jsonl"}]}}, id="data"),
    ],
)
def test_a_new_training_spec_trains_once(changes: dict[str, Any], world: Any) -> None:
    """And A, B, A returns to A's version without training again."""
    first = world.serving()
    world.spec |= changes
    plan = world.take(world.plan())
    assert started(plan) == world.spec_run
    world.sees(RunState.SUCCEEDED, world.evidence(Outcome.PUBLISHED, number=2))
    plan = world.take(world.plan())
    world.versions = (*world.versions, type(world.versions[0])(plan.actions[0].version))
    second = plan.status.versions.stable.name
    for name in changes:
        world.spec.pop(name)
    plan = world.take(world.plan())
    assert (None, first.version, second) == (
        started(plan),
        plan.status.versions.stable.name,
        plan.status.versions.previous.name,
    )


def test_a_spec_that_came_back_before_it_was_trained_resumes_its_run(world: Any) -> None:
    """A, B, A while A still trains: A's run is stopped for B, and goes on when A is wanted again."""
    first = started(world.take(world.plan()))
    world.sees(RunState.RUNNING)
    world.spec["lora"] = {"rank": 4}
    world.take(world.plan())
    world.sees(RunState.FAILED, run_id=first, reason="RunInterrupted")
    second = started(world.take(world.plan()))
    world.sees(RunState.RUNNING, run_id=second)
    world.spec.clear()
    world.take(world.plan())
    world.sees(RunState.FAILED, run_id=second, reason="RunInterrupted")
    assert first == started(world.take(world.plan()))


def test_a_run_that_the_store_already_holds_is_adopted(world: Any) -> None:
    """Status lost, store kept: the version is recorded again under its number, and nothing trains."""
    world.sees(RunState.ABSENT, world.evidence(Outcome.PUBLISHED, number=7))
    plan = world.plan()
    assert (None, 7, 7) == (started(plan), plan.actions[0].version.number, plan.status.last_number)
    assert plan.status.versions.stable is not None


@pytest.mark.parametrize("asked", ["2026-03-02T11:59:00Z", "2026-03-02T11:59:00.250Z", "2026-03-02T12:59:00.9+01:00"])
def test_a_request_trains_once(asked: str, world: Any) -> None:
    """A newer annotation starts a run of its own, is echoed to the second, and is not taken up again."""
    world.serving()
    world.annotations[TRAIN_REQUESTED_AT] = asked
    plan = world.take(world.plan())
    run_id = started(plan)
    assert run_id not in (None, world.spec_run)
    assert plan.status.train_requested_at == "2026-03-02T11:59:00Z"
    world.sees(RunState.SUCCEEDED, world.evidence(Outcome.GATE_FAILED, run_id=run_id), run_id=run_id)
    world.take(world.plan())
    assert started(world.take(world.plan())) is None


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param("soon", id="no time"),
        pytest.param("", id="empty"),
        pytest.param("2026-03-01T00:00:00Z", id="not newer"),
        pytest.param("2026-03-01T01:00:00+01:00", id="the same moment elsewhere"),
    ],
)
def test_what_is_no_new_request_starts_nothing(asked: str, world: Any) -> None:
    """Only a time after the last one taken up asks for a run."""
    world.serving()
    world.status["train_requested_at"] = "2026-03-01T00:00:00Z"
    world.annotations[TRAIN_REQUESTED_AT] = asked
    assert started(world.plan()) is None


def test_a_request_after_a_passing_failure_resumes_that_run(world: Any) -> None:
    """What was done already is not done again."""
    world.status["last_run"] = world.run(state="Failed", reason="DiskFull", number=3)
    world.sees(RunState.FAILED, world.evidence(Outcome.FAILED, reason="DiskFull", retryable=True))
    world.annotations[TRAIN_REQUESTED_AT] = "2026-03-02T11:59:00Z"
    world.take(world.plan())
    world.now += timedelta(minutes=1)
    (start,) = world.plan().actions
    assert (world.spec_run, 3) == (start.spec.run_id, start.spec.version_number)


def test_a_request_after_a_lasting_failure_starts_afresh(world: Any) -> None:
    """The data may have been mended since."""
    world.status["last_run"] = world.run(state="Failed", reason="OneClass")
    world.sees(RunState.FAILED, world.evidence(Outcome.FAILED, reason="OneClass"))
    world.annotations[TRAIN_REQUESTED_AT] = "2026-03-02T11:59:00Z"
    assert started(world.plan()) not in (None, world.spec_run)


@pytest.mark.parametrize("reason", ["DigestMismatch", "SignatureInvalid", "ManifestInvalid"])
def test_a_request_after_a_version_failed_its_checks_starts_afresh(reason: str, world: Any) -> None:
    """The run itself ended well, so there is nothing of it to go on with."""
    world.status["last_run"] = world.run(state="Failed", reason=reason)
    refused = Verification(ok=False, reason=reason)
    world.sees(RunState.SUCCEEDED, replace(world.evidence(Outcome.PUBLISHED), verification=refused))
    world.annotations[TRAIN_REQUESTED_AT] = "2026-03-02T11:59:00Z"
    assert started(world.plan()) not in (None, world.spec_run)


def test_a_tick_trains_once(world: Any) -> None:
    """The night's run has an id made from the tick; the next tick is a day later."""
    scheduled(world)
    assert started(world.plan()) is None
    world.now = datetime(2026, 3, 2, 2, 0, 5, tzinfo=UTC)
    plan = world.take(world.plan())
    assert started(plan) is not None
    assert ("2026-03-02T02:00:00Z", "2026-03-03T02:00:00Z") == (
        plan.status.last_schedule_time,
        plan.status.next_schedule_time,
    )


def test_ticks_missed_by_days_make_one_run(world: Any) -> None:
    """A week away is one night to catch up with, not seven."""
    scheduled(world)
    world.now = datetime(2026, 3, 9, 3, 0, tzinfo=UTC)
    plan = world.take(world.plan())
    assert (True, "2026-03-09T02:00:00Z") == (started(plan) is not None, plan.status.last_schedule_time)
    run_id = plan.status.run.run_id
    world.sees(RunState.SUCCEEDED, world.evidence(Outcome.SKIPPED, run_id=run_id), run_id=run_id)
    assert started(world.take(world.plan())) is None


def test_a_tick_beyond_its_deadline_is_noted_and_lost(world: Any) -> None:
    """Nobody wants the night's run at noon."""
    scheduled(world)
    world.now = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
    plan = world.take(world.plan())
    assert (None, ["ScheduleMissed"]) == (started(plan), [note.reason for note in plan.notes])
    assert plan.status.next_schedule_time == "2026-03-03T02:00:00Z"
    assert not world.plan().notes


def test_an_edited_schedule_forgets_the_ticks_of_the_old_one(world: Any) -> None:
    """Only ticks to come count."""
    scheduled(world)
    world.spec["schedule"] = {**NIGHTLY, "cron": "0 1 * * *"}
    world.now = datetime(2026, 3, 2, 1, 30, tzinfo=UTC)
    plan = world.plan()
    assert (None, "2026-03-03T01:00:00Z") == (started(plan), plan.status.next_schedule_time)


def test_a_suspended_schedule_forgets_its_ticks(world: Any) -> None:
    """Resuming does not catch up."""
    scheduled(world)
    world.spec["suspend"] = True
    world.now = datetime(2026, 3, 2, 2, 30, tzinfo=UTC)
    world.take(world.plan())
    world.spec["suspend"] = False
    plan = world.plan()
    assert (None, "2026-03-03T02:00:00Z") == (started(plan), plan.status.next_schedule_time)


def test_forbid_lets_the_running_run_finish(world: Any) -> None:
    """The tick waits, and runs if its deadline is not over when the run ends."""
    scheduled(world)
    world.status["run"] = world.run("long-night")
    world.sees(RunState.RUNNING, run_id="long-night")
    world.now = datetime(2026, 3, 2, 2, 30, tzinfo=UTC)
    assert () == world.take(world.plan()).actions
    world.sees(RunState.SUCCEEDED, world.evidence(Outcome.SKIPPED, run_id="long-night"), run_id="long-night")
    assert started(world.take(world.plan())) is not None


def test_replace_stops_the_running_run_and_starts_the_tick(world: Any) -> None:
    """In two steps: the old run ends first."""
    scheduled(world, concurrencyPolicy="Replace")
    world.status["run"] = world.run("long-night", started_at="2026-03-01T12:00:00Z")
    world.sees(RunState.RUNNING, run_id="long-night")
    world.now = datetime(2026, 3, 2, 2, 0, 5, tzinfo=UTC)
    plan = world.take(world.plan())
    assert [StopRun] == [type(action) for action in plan.actions]
    world.sees(RunState.FAILED, run_id="long-night", reason="RunInterrupted")
    plan = world.take(world.plan())
    assert started(plan) not in (None, "long-night")
    world.sees(RunState.RUNNING, run_id=plan.status.run.run_id)
    assert () == world.take(world.plan()).actions


@pytest.mark.parametrize("verdicts", [None, 19, 20])
def test_a_tick_that_would_not_run_replaces_nothing(verdicts: int | None, world: Any) -> None:
    """With too few verdicts, or none that can be counted, the night is skipped, and a run under way goes on."""
    world.spec["data"] = {"feedback": {"minVerdicts": 20}}
    scheduled(world, concurrencyPolicy="Replace")
    world.status["run"] = world.run("long-night", started_at="2026-03-01T12:00:00Z")
    world.sees(RunState.RUNNING, run_id="long-night")
    world.verdicts = verdicts
    world.now = datetime(2026, 3, 2, 2, 0, 5, tzinfo=UTC)
    stopped = [action for action in world.take(world.plan()).actions if isinstance(action, StopRun)]
    assert (verdicts == 20) == bool(stopped)


def test_an_old_failure_that_is_found_again_takes_no_request_along(world: Any) -> None:
    """A, B, A, where A had failed for good: nothing starts for the spec, and what somebody asks for does."""
    world.sees(RunState.FAILED, world.evidence(Outcome.FAILED, reason="OneClass"))
    world.status["last_run"] = world.run("other", state="Succeeded", reason="GateFailed", training_hash=OTHER)
    world.annotations[TRAIN_REQUESTED_AT] = "2026-03-02T11:59:00Z"
    plan = world.take(world.plan())
    assert (None, "OneClass") == (started(plan), plan.status.last_run.reason)
    plan = world.take(world.plan())
    assert started(plan) not in (None, world.spec_run)
    assert plan.status.train_requested_at == "2026-03-02T11:59:00Z"


@pytest.mark.parametrize(
    ("verdicts", "runs"),
    [
        pytest.param(19, False, id="too few"),
        pytest.param(20, True, id="enough"),
    ],
)
def test_a_night_with_too_few_verdicts_is_skipped(verdicts: int, runs: bool, world: Any) -> None:
    """The tick is taken up without a run, and said to be skipped."""
    world.spec["data"] = {"feedback": {"minVerdicts": 20}}
    scheduled(world)
    world.verdicts = verdicts
    world.now = datetime(2026, 3, 2, 2, 0, 5, tzinfo=UTC)
    plan = world.take(world.plan())
    assert runs == (started(plan) is not None)
    assert runs == ("Skipped" not in [note.reason for note in plan.notes])
    assert plan.status.next_schedule_time == "2026-03-03T02:00:00Z"


def test_a_tick_waits_until_its_verdicts_can_be_counted(world: Any) -> None:
    """A service that is starting holds the night up, not off."""
    world.spec["data"] = {"feedback": {"minVerdicts": 20}}
    scheduled(world)
    world.now = datetime(2026, 3, 2, 2, 0, 5, tzinfo=UTC)
    plan = world.take(world.plan())
    assert (None, timedelta(seconds=2)) == (started(plan), plan.requeue_after)
    world.verdicts = 20
    assert started(world.plan()) is not None


def test_causes_that_come_together_make_one_run(world: Any) -> None:
    """An edited spec takes a request and a tick along."""
    scheduled(world)
    world.spec["lora"] = {"rank": 4}
    world.annotations[TRAIN_REQUESTED_AT] = "2026-03-02T01:59:00Z"
    world.now = datetime(2026, 3, 2, 2, 0, 5, tzinfo=UTC)
    plan = world.take(world.plan())
    assert started(plan) == world.spec_run
    world.sees(RunState.SUCCEEDED, world.evidence(Outcome.GATE_FAILED))
    world.take(world.plan())
    assert () == world.take(world.plan()).actions


def test_the_plan_wakes_up_for_the_next_tick(world: Any) -> None:
    """A settled adapter asks to be looked at again when its schedule ticks."""
    scheduled(world)
    assert world.plan().requeue_after == timedelta(hours=14)


@pytest.mark.parametrize("back", [timedelta(minutes=5), timedelta(hours=1), timedelta(days=1)])
def test_a_clock_that_goes_back_repeats_no_tick(back: timedelta, world: Any) -> None:
    """The tick that was taken up is not due again, at whatever time of the day the clock arrives anew."""
    scheduled(world)
    world.now = datetime(2026, 3, 2, 2, 0, 30, tzinfo=UTC)
    first = started(world.take(world.plan()))
    assert first is not None
    world.sees(RunState.SUCCEEDED, world.evidence(Outcome.SKIPPED, run_id=first), run_id=first)
    world.take(world.plan())
    world.now -= back
    for _ in range(int(back / timedelta(minutes=5)) + 1):
        assert started(world.take(world.plan())) is None
        world.now += timedelta(minutes=5)
    assert "2026-03-03T02:00:00Z" == world.status["next_schedule_time"]


@pytest.mark.parametrize(
    "taken",
    [
        pytest.param("2026-03-01T02:00:00Z", id="a tick was seen ahead"),
        pytest.param("2031-05-05T02:00:00Z", id="a tick was taken ahead"),
    ],
)
def test_a_clock_that_was_ahead_once_stops_no_schedule(taken: str, world: Any) -> None:
    """The next tick by the clock as it is now is the one that counts."""
    scheduled(world)
    world.status |= {"last_schedule_time": taken, "next_schedule_time": "2031-05-06T02:00:00Z"}
    assert (None, "2026-03-02T02:00:00Z") == (started(plan := world.take(world.plan())), plan.status.next_schedule_time)
    world.now = datetime(2026, 3, 2, 2, 0, 5, tzinfo=UTC)
    plan = world.plan()
    assert started(plan) is not None
    assert ("2026-03-02T02:00:00Z", "2026-03-03T02:00:00Z") == (
        plan.status.last_schedule_time,
        plan.status.next_schedule_time,
    )
