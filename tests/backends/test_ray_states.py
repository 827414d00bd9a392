"""What Ray says about jobs and applications, mapped: every word with every other, and words of a later Ray."""

import itertools

import pytest

from socadapter_operator.backends import ray_states
from socadapter_operator.backends.ray_states import AppStatus, JobError, JobStatus
from socadapter_operator.domain.observed import ServingState
from socadapter_operator.domain.state import RunState

STATUSES = (*JobStatus, "PAUSED")
ERRORS = (None, *JobError, "JOB_LOST_IN_SPACE")
EXIT_CODES = (None, 0, 1, 2, 3, 130, -9)
EVERYTHING = list(itertools.product(STATUSES, ERRORS, EXIT_CODES))


def test_every_job_has_one_state() -> None:
    """Over the full product: an end is only what Ray calls one, and whatever failed may be tried again."""
    expected = {
        "PENDING": RunState.STARTING,
        "RUNNING": RunState.RUNNING,
        "STOPPED": RunState.FAILED,
        "SUCCEEDED": RunState.SUCCEEDED,
        "FAILED": RunState.FAILED,
        "PAUSED": RunState.UNKNOWN,
    }
    for status, error, code in EVERYTHING:
        found = ray_states.run(status, error, code, "said\nlast words\n")
        assert (expected[status], True) == (found.state, found.retryable), (status, error, code)
        assert ray_states.has_ended(status) == found.state.is_terminal
        assert bool(found.reason) == (found.state in (RunState.FAILED, RunState.UNKNOWN))


def test_every_failure_has_one_reason() -> None:
    """Stopped on request where Ray stopped it or the run said so itself; else what kept it from running, else lost."""
    unschedulable = {JobError.SUPERVISOR_UNSCHEDULABLE, JobError.SUPERVISOR_START_TIMEOUT}
    for status, error, code in EVERYTHING:
        if status == "STOPPED" or (status == "FAILED" and code == 130):
            reason = "RunInterrupted"
        elif status != "FAILED":
            continue
        elif error == JobError.RUNTIME_ENV_SETUP_FAILURE:
            reason = "RuntimeEnvFailed"
        else:
            reason = "Unschedulable" if error in unschedulable else "RunLost"
        assert reason == ray_states.run(status, error, code, "").reason, (status, error, code)


def test_the_message_is_the_last_thing_said() -> None:
    """Ray sends the log's last lines; one is enough, and it is cut."""
    found = ray_states.run("FAILED", JobError.ENTRYPOINT_ERROR, 1, "Traceback\n  line\nKilled " + "x" * 9000 + "\n")
    assert "with code 1" in found.message
    assert "Killed xxx" in found.message
    assert "Traceback" not in found.message
    assert len(found.message) < 700


SILENT = {
    None: ServingState.ABSENT,
    "NOT_STARTED": ServingState.STARTING,
    "DEPLOYING": ServingState.STARTING,
    "DEPLOY_FAILED": ServingState.FAILED,
    "RUNNING": ServingState.RUNNING,
    "UNHEALTHY": ServingState.FAILED,
    "DELETING": ServingState.ABSENT,
    "MIGRATING": ServingState.UNKNOWN,
}
ANSWERS = SILENT | dict.fromkeys(("DEPLOYING", "DEPLOY_FAILED", "UNHEALTHY"), ServingState.RUNNING)


@pytest.mark.parametrize("answers", [False, True])
def test_every_application_has_one_state(answers: bool) -> None:
    """What serves counts as serving while its gateway answers, whatever became of an update."""
    assert {None, "MIGRATING", *AppStatus} == set(SILENT)
    for status, state in (ANSWERS if answers else SILENT).items():
        assert state is ray_states.serving(status, answers), status
        told = {"DEPLOY_FAILED": "UpdateFailed", "UNHEALTHY": "Unhealthy"}.get(status or "", "")
        assert (told if answers else "") == ray_states.trouble(status, answers)
