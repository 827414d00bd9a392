"""The states of a run, and how a backend's word and the store's evidence make one of them.

A run counts only by what it left in the store: a backend that says *Succeeded* without ``result.json`` and
``_SUCCESS`` has failed, and a run whose evidence is complete has succeeded whatever became of its process. The table
`_SETTLED` is the whole rule; the tests walk its full cross product.
"""

from dataclasses import dataclass
from enum import StrEnum

from socadapter_api.manifest import AdapterManifest, Progress, RunResult


class RunState(StrEnum):
    """Where a run is, in the one vocabulary that every backend's view is mapped to."""

    ABSENT = "Absent"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"

    @property
    def is_terminal(self) -> bool:
        """No later observation of the same attempt changes it."""
        return self in (RunState.SUCCEEDED, RunState.FAILED)

    @property
    def is_active(self) -> bool:
        """Something runs, or waits for its turn to run."""
        return self in (RunState.QUEUED, RunState.STARTING, RunState.RUNNING)


class Marker(StrEnum):
    """What the run's folder in the store says."""

    NONE = "None"
    SUCCESS = "Success"
    FAILED = "Failed"
    UNREADABLE = "Unreadable"


@dataclass(frozen=True, slots=True)
class BackendRun:
    """What a backend knows about one run."""

    state: RunState = RunState.ABSENT
    reason: str = ""
    message: str = ""
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of checking a published adapter's files, digest and signature."""

    ok: bool
    signed_by: str = ""
    reason: str = ""
    message: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one run's folder in the store holds. `result` is there with either marker."""

    marker: Marker = Marker.NONE
    result: RunResult | None = None
    manifest: AdapterManifest | None = None
    verification: Verification | None = None
    progress: Progress | None = None
    uri: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as the planner sees it."""

    state: RunState = RunState.ABSENT
    reason: str = ""
    message: str = ""
    retryable: bool = False
    evidence: Evidence = Evidence()


ARTIFACT_MISSING = "ArtifactMissing"
RUN_LOST = "RunLost"

_ACTIVE = (RunState.QUEUED, RunState.STARTING, RunState.RUNNING)

_SETTLED: dict[tuple[Marker, RunState], RunState] = {
    **{(Marker.SUCCESS, state): RunState.SUCCEEDED for state in RunState},
    # A resumed attempt runs beside the marker of the one before it until it removes it.
    **{(Marker.FAILED, state): RunState.FAILED for state in RunState},
    **{(Marker.FAILED, state): state for state in _ACTIVE},
    **{(Marker.NONE, state): state for state in RunState},
    (Marker.NONE, RunState.SUCCEEDED): RunState.FAILED,
    **{(Marker.UNREADABLE, state): RunState.UNKNOWN for state in RunState},
    **{(Marker.UNREADABLE, state): state for state in _ACTIVE},
}


def settle(backend: BackendRun, evidence: Evidence) -> RunView:
    """The one view of a run that planning uses, from the backend's word and the store's evidence."""
    state = _SETTLED[evidence.marker, backend.state]
    if state is RunState.FAILED and evidence.marker is Marker.FAILED and evidence.result is not None:
        result = evidence.result
        return RunView(state, result.reason or "Failed", result.message, result.retryable, evidence)
    if state is RunState.FAILED and backend.state is RunState.SUCCEEDED:
        message = f"the run ended without result.json and _SUCCESS in {evidence.uri or 'the store'}"
        return RunView(state, ARTIFACT_MISSING, message, True, evidence)
    if state is RunState.UNKNOWN and evidence.marker is Marker.UNREADABLE:
        return RunView(state, "StoreUnavailable", evidence.message, True, evidence)
    reason = backend.reason or (RUN_LOST if state is RunState.FAILED else "")
    return RunView(state, reason, backend.message, backend.retryable, evidence)
