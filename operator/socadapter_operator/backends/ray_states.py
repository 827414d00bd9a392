"""What Ray says about a job and about a Serve application, in our words. Pure: two tables, walked whole by the tests.

Ray's words: ``ray.job_submission.JobStatus`` and ``JobErrorType``, ``ray.serve.schema.ApplicationStatus``, Ray 2.60.
"""

from enum import StrEnum

from socadapter_api.errors import RunInterrupted
from socadapter_operator.domain.observed import ServingState
from socadapter_operator.domain.state import RUN_LOST, BackendRun, RunState

UNSCHEDULABLE = "Unschedulable"
RUNTIME_ENV_FAILED = "RuntimeEnvFailed"
UNKNOWN_STATUS = "UnknownStatus"

INTERRUPTED = BackendRun(RunState.FAILED, RunInterrupted.reason, "stopped on request; resumable", True)
INTERRUPTED_EXIT_CODE = 130
_SAID_CHARACTERS = 500


class JobStatus(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class JobError(StrEnum):
    NONE = ""
    RUNTIME_ENV_SETUP_FAILURE = "RUNTIME_ENV_SETUP_FAILURE"
    SUPERVISOR_START_TIMEOUT = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
    SUPERVISOR_START_FAILURE = "JOB_SUPERVISOR_ACTOR_START_FAILURE"
    SUPERVISOR_UNSCHEDULABLE = "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"
    SUPERVISOR_UNKNOWN_FAILURE = "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"
    SUPERVISOR_DIED = "JOB_SUPERVISOR_ACTOR_DIED"
    ENTRYPOINT_START_ERROR = "JOB_ENTRYPOINT_COMMAND_START_ERROR"
    ENTRYPOINT_ERROR = "JOB_ENTRYPOINT_COMMAND_ERROR"


_STATES: dict[str, RunState] = {
    JobStatus.PENDING: RunState.STARTING,  # its command asks for no resources, so that it never waits for its turn
    JobStatus.RUNNING: RunState.RUNNING,
    JobStatus.STOPPED: RunState.FAILED,
    JobStatus.SUCCEEDED: RunState.SUCCEEDED,
    JobStatus.FAILED: RunState.FAILED,
}

_WHY_FAILED: dict[str, str] = {
    **dict.fromkeys(JobError, RUN_LOST),
    JobError.RUNTIME_ENV_SETUP_FAILURE: RUNTIME_ENV_FAILED,
    JobError.SUPERVISOR_UNSCHEDULABLE: UNSCHEDULABLE,
    JobError.SUPERVISOR_START_TIMEOUT: UNSCHEDULABLE,
}

ENDS = frozenset(_WHY_FAILED.values())
"""The reasons for which a run ends that Ray ended."""


def run(status: str, error_type: str | None, exit_code: int | None, message: str) -> BackendRun:
    """A job of Ray's as a run. A word that Ray has learned since is `Unknown`, and never taken for an end."""
    state = _STATES.get(status)
    if state is None:
        return BackendRun(RunState.UNKNOWN, UNKNOWN_STATUS, f"Ray reports the job as {status!r}")
    if status == JobStatus.STOPPED or (state is RunState.FAILED and exit_code == INTERRUPTED_EXIT_CODE):
        return INTERRUPTED
    if state is RunState.FAILED:
        how = "the run's command ended" + ("" if exit_code is None else f" with code {exit_code}")
        why = _WHY_FAILED.get(error_type or JobError.NONE, RUN_LOST)
        return BackendRun(state, why, f"{how} without a result; Ray said: {_last_line(message)}")
    return BackendRun(state, message=_last_line(message) if state is RunState.STARTING else "")


def has_ended(status: str) -> bool:
    """Whether the job will not change any more."""
    state = _STATES.get(status)
    return state is not None and state.is_terminal


class AppStatus(StrEnum):
    NOT_STARTED = "NOT_STARTED"
    DEPLOYING = "DEPLOYING"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DELETING = "DELETING"


_SERVING: dict[str, tuple[ServingState, ServingState]] = {
    # While the gateway is silent, and while it answers: a new table or a failed update leaves the replicas that serve.
    AppStatus.NOT_STARTED: (ServingState.STARTING, ServingState.STARTING),
    AppStatus.DEPLOYING: (ServingState.STARTING, ServingState.RUNNING),
    AppStatus.DEPLOY_FAILED: (ServingState.FAILED, ServingState.RUNNING),
    AppStatus.RUNNING: (ServingState.RUNNING, ServingState.RUNNING),
    AppStatus.UNHEALTHY: (ServingState.FAILED, ServingState.RUNNING),
    AppStatus.DELETING: (ServingState.ABSENT, ServingState.ABSENT),
}


def serving(status: str | None, answers: bool) -> ServingState:
    """The state of an application: None where Ray knows none, `answers` where its gateway told what replicas hold."""
    if status is None:
        return ServingState.ABSENT
    return _SERVING[status][answers] if status in _SERVING else ServingState.UNKNOWN


_TROUBLE = {AppStatus.DEPLOY_FAILED: "UpdateFailed", AppStatus.UNHEALTHY: "Unhealthy"}


def trouble(status: str | None, answers: bool) -> str:
    """What is wrong with an application that answers all the same; empty where nothing is, or nothing answers."""
    return _TROUBLE.get(AppStatus(status), "") if answers and status in _SERVING else ""


def is_broken(status: str | None) -> bool:
    """Whether Ray has given the application up, so that it starts only when it is deployed anew."""
    return status in _TROUBLE


def _last_line(message: str) -> str:
    lines = message.strip().splitlines() or [""]
    return lines[-1].strip()[:_SAID_CHARACTERS]
