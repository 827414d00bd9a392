"""One state from the backend's word and the store's evidence."""

import itertools
from typing import Any

import pytest

from socadapter_api.manifest import Outcome
from socadapter_operator.domain.state import BackendRun, Evidence, Marker, RunState, settle

EVERY = list(itertools.product(Marker, RunState))
ACTIVE = {RunState.QUEUED, RunState.STARTING, RunState.RUNNING}


@pytest.mark.parametrize(("marker", "state"), EVERY)
def test_a_run_succeeds_by_its_own_artifacts_alone(marker: Marker, state: RunState) -> None:
    """Whatever the backend says, a run succeeded if and only if the store holds its success."""
    seen = settle(BackendRun(state), Evidence(marker))
    assert (seen.state is RunState.SUCCEEDED) == (marker is Marker.SUCCESS)


@pytest.mark.parametrize(("marker", "state"), EVERY)
def test_every_pair_has_a_state(marker: Marker, state: RunState) -> None:
    """The table covers the full cross product, and keeps these rules."""
    seen = settle(BackendRun(state), Evidence(marker))
    expected = {
        Marker.SUCCESS: RunState.SUCCEEDED,
        Marker.FAILED: state if state in ACTIVE else RunState.FAILED,
        Marker.UNREADABLE: state if state in ACTIVE else RunState.UNKNOWN,
        Marker.NONE: RunState.FAILED if state is RunState.SUCCEEDED else state,
    }
    assert expected[marker] is seen.state


def test_success_without_artifacts_is_a_failure_that_may_be_retried() -> None:
    """A backend's *Succeeded* promotes nothing."""
    seen = settle(BackendRun(RunState.SUCCEEDED), Evidence(uri="/store/soc/cloud/run"))
    assert ("ArtifactMissing", True) == (seen.reason, seen.retryable)
    assert "/store/soc/cloud/run" in seen.message


def test_failure_in_the_store_speaks_for_the_run(world: Any) -> None:
    """Reason and retryability come from the result, not from the process."""
    told = world.evidence(Outcome.FAILED, reason="OneClass", message="one class", retryable=False)
    seen = settle(BackendRun(RunState.FAILED, "RunLost", "died", True), told)
    assert ("OneClass", "one class", False) == (seen.reason, seen.message, seen.retryable)


def test_a_process_that_died_without_a_word_may_be_retried() -> None:
    """Nothing in the store and no process: lost, and worth another attempt."""
    seen = settle(BackendRun(RunState.FAILED), Evidence())
    assert ("RunLost", True) == (seen.reason, seen.retryable)


@pytest.mark.parametrize("state", RunState)
def test_terminal_and_active_exclude_each_other(state: RunState) -> None:
    """No state is both at work and finished."""
    assert not (state.is_terminal and state.is_active)
    assert state.is_active == (state in ACTIVE)
