"""What an operator leaves behind that ends in the middle of a pass: walked over every cause, moment and change."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from socadapter_api.adapter import TRAIN_REQUESTED_AT, AdapterStatus
from socadapter_api.manifest import Outcome
from socadapter_operator.domain import planner, triggers
from socadapter_operator.domain.actions import Action, Plan, RecordVersion, StartRun, StopRun
from socadapter_operator.domain.observed import RecordedVersion
from socadapter_operator.domain.state import BackendRun, Evidence, RunState, RunView, settle

MOST_EFFECTS = 6
PASSES = 8
PAUSE = timedelta(minutes=6)
"""Longer than any pause before a retry."""


def plan(world: Any) -> Plan:
    """What the shell would plan: of the runs it sees those alone that planning asks for."""
    adapter, around = world.adapter(), world.observed
    asked = triggers.run_ids(adapter, around, world.now)
    seen = {run_id: world.runs.get(run_id, RunView()) for run_id in asked}
    return planner.plan(adapter, replace(around, runs=seen), world.now)


def effects(made: Plan) -> Iterator[AdapterStatus | Action]:
    """What carrying out `made` does, one after the other; a status stands for its writing."""
    for action in made.actions:
        if (intent := made.before(action)) is not None:
            yield intent
        yield action
    yield made.status


def do(world: Any, effect: AdapterStatus | Action) -> None:
    """Lets `effect` happen, and looks at what a successor would find."""
    match effect:
        case AdapterStatus():
            world.status = {name: getattr(effect, name) for name in AdapterStatus.model_fields}
        case StartRun(spec=spec):
            world.sees(RunState.RUNNING, run_id=spec.run_id)
            world.numbers[spec.run_id] = spec.version_number
        case StopRun(run_id=run_id):
            world.sees(RunState.FAILED, run_id=run_id, reason="RunInterrupted")
        case RecordVersion(version=version):
            world.versions = (*world.versions, RecordedVersion(version))
    assert_nothing_is_lost(world)


def assert_nothing_is_lost(world: Any) -> None:
    """Status names the run that works, if one does, and each that was published is recorded or named."""
    current = world.status.get("run")
    named = {current.run_id} if current is not None else set()
    active = {run_id for run_id, view in world.runs.items() if view.state.is_active}
    assert active <= named
    published = {run_id for run_id, view in world.runs.items() if view.state is RunState.SUCCEEDED}
    assert published <= named | {recorded.spec.run_id for recorded in world.versions}


def asked(world: Any) -> None:
    world.annotations = {TRAIN_REQUESTED_AT: world.now.isoformat()}


def ticked(world: Any) -> None:
    world.spec["schedule"] = {"cron": "0 2 * * *"}
    world.status |= {"next_schedule_time": "2026-03-02T11:59:00Z", "observed_schedule": "0 2 * * * UTC"}


def edited(world: Any) -> None:
    world.spec["lora"] = {"rank": 4}


def suspended(world: Any) -> None:
    world.spec["suspend"] = True


def without_pool(world: Any) -> None:
    world.pools = {}


CAUSES: dict[str, Callable[[Any], None]] = {"spec": lambda _: None, "request": asked, "tick": ticked}
WORDS: dict[str, Callable[[Any, str], None]] = {
    "works": lambda _world, _run_id: None,
    "waits": lambda world, run_id: world.sees(RunState.QUEUED, run_id=run_id),
    "was lost": lambda world, run_id: world.sees(RunState.FAILED, run_id=run_id),
    "failed for good": lambda world, run_id: world.sees(RunState.FAILED, run_id=run_id, retryable=False),
    "published": lambda world, run_id: publish(world, run_id),
}


def publish(world: Any, run_id: str) -> None:
    found = world.evidence(Outcome.PUBLISHED, run_id=run_id, number=world.numbers[run_id])
    world.runs[run_id] = settle(BackendRun(RunState.SUCCEEDED), found)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _: None, id="nothing"),
        pytest.param(edited, id="another training spec"),
        pytest.param(asked, id="a request"),
        pytest.param(suspended, id="suspended"),
        pytest.param(without_pool, id="the pool is gone"),
    ],
)
def test_no_run_is_ever_left_to_itself(change: Callable[[Any], None], new_world: Any) -> None:
    """A pass that starts a run ends anywhere, and something changes: status names each run that works, and none twice.

    When everything is as it should be again, the adapter settles with a version of its spec.
    """
    for cause, moment, word in product(CAUSES, range(MOST_EFFECTS), WORDS):
        world = new_world()
        world.numbers = {}
        if cause != "spec":
            world.serving()
            publish_earlier(world)
        CAUSES[cause](world)
        for effect in list(effects(plan(world)))[:moment]:
            do(world, effect)
        started = list(world.numbers)
        for run_id in started:
            WORDS[word](world, run_id)
        change(world)
        for number in range(PASSES):
            if number == 1:  # what only held things up is over
                world.spec["suspend"], world.pools = False, None
            for effect in effects(plan(world)):
                do(world, effect)
            world.now += PAUSE
            for run_id, view in list(world.runs.items()):
                if number > 1 and view.state.is_active:
                    publish(world, run_id)
        place = (cause, moment, word)
        assert world.status["run"] is None, place
        last = world.status["last_run"]
        trained = {recorded.spec.training_hash for recorded in world.versions}
        assert world.wanted in trained or (last.training_hash, last.reason) == (world.wanted, "RunLost"), place


def publish_earlier(world: Any) -> None:
    """The version that serves has a run that the store knows."""
    (recorded,) = world.versions
    world.runs[recorded.spec.run_id] = settle(BackendRun(RunState.SUCCEEDED), Evidence())


def test_a_run_whose_start_was_cut_short_leaves_nothing_behind(world: Any) -> None:
    """What its backend has made of it goes when another spec is wanted."""
    world.status["run"] = world.run(state="Absent", started_at="")
    before = world.spec_run
    edited(world)
    first, second = plan(world).actions
    assert before == getattr(first, "run_id", "")
    assert isinstance(second, StartRun)
    assert before != second.spec.run_id
