"""One step of a run's life: what its state asks for, and what becomes of its record in status.

Retries live here: a run that failed for a passing reason is resumed under its own id, with growing pauses and a limit.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from socadapter_api import errors
from socadapter_api.adapter import RunStatus, SocAdapter, VersionSpec
from socadapter_api.manifest import Outcome
from socadapter_api.pool import SocServingPool
from socadapter_operator.domain import problems, run_spec
from socadapter_operator.domain.actions import Action, ForgetRun, Note, RecordVersion, StartRun, StopRun
from socadapter_operator.domain.observed import Observed
from socadapter_operator.domain.state import RunState, RunView
from socadapter_operator.domain.timestamps import parse, stamp
from socadapter_operator.domain.triggers import SUPERSEDED

MAX_RETRIES = 6
"""As many as a Kubernetes Job allows by default."""

POLL = timedelta(seconds=2)
_FIRST_PAUSE = timedelta(seconds=5)
_LONGEST_PAUSE = timedelta(minutes=5)
_NO_PAUSE = frozenset({errors.RunInterrupted.reason})
"""Failures that were asked for: resumed at once, and not counted."""

SUSPENDED = "Suspended"
UNVERIFIED = "Unverified"


@dataclass(frozen=True, slots=True)
class Course:
    """The outcome of one step. `run` None: nothing is in progress any more; `finished` is what it became."""

    run: RunStatus | None
    finished: RunStatus | None = None
    actions: tuple[Action, ...] = ()
    notes: tuple[Note, ...] = ()
    requeue_after: timedelta | None = None
    recorded: VersionSpec | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What surrounds the step. `obsolete`: why the run is no longer wanted, empty if it is; `pool` None: none found."""

    adapter: SocAdapter
    observed: Observed
    pool: SocServingPool | None
    now: datetime
    obsolete: str = ""
    blocked: str = ""


def advance(run: RunStatus, view: RunView, setting: Setting) -> Course:
    """The next step of `run`, seen as `view`. Total over every state."""
    if view.state.is_active:
        return _watch(run, view, setting)
    if view.state is RunState.SUCCEEDED:
        return _finish(run, view, setting)
    if view.state is RunState.UNKNOWN:
        held = _marked(run, RunState.UNKNOWN, view.reason or "Unknown", view.message)
        return Course(held, requeue_after=POLL)
    if setting.obsolete:
        ended = _ended(run, setting, RunState.FAILED, SUPERSEDED, setting.obsolete)
        # Of one that was stopped before it began, or whose start was cut short, no list of ended runs tells.
        return replace(ended, actions=(ForgetRun(run.run_id),)) if view.state is RunState.ABSENT else ended
    if view.state is RunState.ABSENT:
        return _start(run, setting)
    return _retry(run, view, setting)


def pause_before(attempt: int) -> timedelta:
    """How long to wait before retry number `attempt` (from 1)."""
    doublings = min(max(attempt - 1, 0), 16)
    return min(_FIRST_PAUSE * (1 << doublings), _LONGEST_PAUSE)


def _watch(run: RunStatus, view: RunView, setting: Setting) -> Course:
    watched = _marked(run, view.state, view.reason, view.message).model_copy(
        update={"progress": view.evidence.progress or run.progress, "finished_at": ""}
    )
    if not setting.obsolete:
        return Course(watched, requeue_after=POLL)
    stopping = _marked(watched, view.state, SUPERSEDED, setting.obsolete)
    return Course(stopping, actions=(StopRun(run.run_id, setting.obsolete),), requeue_after=POLL)


def _start(run: RunStatus, setting: Setting) -> Course:
    if setting.pool is None or setting.blocked:
        return Course(_marked(run, RunState.ABSENT, setting.blocked or errors.PoolNotFound.reason, ""))
    started = _marked(run, RunState.STARTING, "", "").model_copy(
        update={
            "started_at": run.started_at or stamp(setting.now),
            "finished_at": "",
            "serving_pool": setting.pool.metadata.name,
        }
    )
    spec = run_spec.build(setting.adapter, setting.pool, setting.observed, started)
    note = Note(
        "RunResumed" if run.attempt else "RunStarted",
        f"run {run.run_id}, version number {run.number}, retry {run.attempt}",
    )
    reserved = problems.reservation(setting.pool) if not run.attempt else None
    warnings = (Note(reserved.reason, reserved.message, warning=True),) if reserved else ()
    start = StartRun(spec, setting.pool, run.attempt)
    return Course(started, actions=(start,), notes=(note, *warnings), requeue_after=POLL)


def _retry(run: RunStatus, view: RunView, setting: Setting) -> Course:
    reason = view.reason or "Failed"
    if not view.retryable or (run.attempt >= MAX_RETRIES and reason not in _NO_PAUSE):
        return _ended(run, setting, RunState.FAILED, reason, view.message)
    failed_at = parse(run.finished_at) or setting.now
    failed = _marked(run, RunState.FAILED, reason, view.message).model_copy(update={"finished_at": stamp(failed_at)})
    if setting.blocked or setting.pool is None:
        return Course(failed)
    if reason in _NO_PAUSE:
        return _start(run, setting)
    # A clock that went back must not turn a pause of seconds into one of hours.
    left = min(failed_at + pause_before(run.attempt + 1) - setting.now, _LONGEST_PAUSE)
    if left > timedelta(0):
        return Course(failed, requeue_after=left)
    return _start(run.model_copy(update={"attempt": run.attempt + 1}), setting)


def _finish(run: RunStatus, view: RunView, setting: Setting) -> Course:
    result = view.evidence.result
    if result is None:
        message = f"_SUCCESS lies in {view.evidence.uri}, and result.json cannot be read"
        return _ended(run, setting, RunState.FAILED, errors.ManifestInvalid.reason, message)
    shown = run.model_copy(
        update={"gates": result.gates, "grpo": result.grpo, "progress": view.evidence.progress or run.progress}
    )
    if result.outcome is Outcome.PUBLISHED:
        return _published(shown, view, setting)
    state = RunState.FAILED if result.outcome is Outcome.FAILED else RunState.SUCCEEDED
    reason = result.outcome.value if state is RunState.SUCCEEDED else result.reason or result.outcome.value
    return _ended(shown, setting, state, reason, result.message or result.reason)


def _published(run: RunStatus, view: RunView, setting: Setting) -> Course:
    verification = view.evidence.verification
    if verification is None or (not verification.ok and verification.retryable):
        message = verification.message if verification else "the published adapter is being checked"
        return Course(_marked(run, RunState.UNKNOWN, UNVERIFIED, message), requeue_after=POLL)
    if not verification.ok:
        return _ended(run, setting, RunState.FAILED, verification.reason, verification.message)
    made = run_spec.version(setting.adapter, run, view.evidence, verification)
    if made is None:
        message = f"manifest.json and result.json in {view.evidence.uri} disagree about run, context or digest"
        return _ended(run, setting, RunState.FAILED, errors.ManifestInvalid.reason, message)
    known = {version.spec.version for version in setting.observed.versions}
    ended = _ended(run, setting, RunState.SUCCEEDED, Outcome.PUBLISHED.value, f"published {made.version}")
    actions = () if made.version in known else (RecordVersion(made),)
    return replace(ended, actions=actions, recorded=made)


def _ended(run: RunStatus, setting: Setting, state: RunState, reason: str, message: str) -> Course:
    finished = _marked(run, state, reason, message).model_copy(
        update={"finished_at": run.finished_at or stamp(setting.now)}
    )
    note = Note(
        "RunFinished", f"run {run.run_id}: {reason}{f': {message}' if message else ''}", state is RunState.FAILED
    )
    return Course(None, finished=finished, notes=(note,), requeue_after=timedelta(0))


def _marked(run: RunStatus, state: RunState, reason: str, message: str) -> RunStatus:
    return run.model_copy(update={"state": state.value, "reason": reason[:128], "message": message[:4096]})
