"""When a run is due, and under which id.

Three causes, in this order: the training spec is new, somebody asked, the schedule ticked. Whichever starts takes the
others along, so that an edited spec, a request and a night's tick make one run and not three.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from socadapter_api.adapter import TRAIN_REQUESTED_AT, RunStatus, Schedule, SocAdapter
from socadapter_api.model import parse_duration
from socadapter_api.training import training_hash
from socadapter_operator.domain import identity, problems, schedule
from socadapter_operator.domain.actions import Note
from socadapter_operator.domain.observed import Observed
from socadapter_operator.domain.state import RunState
from socadapter_operator.domain.timestamps import parse, stamp

SUPERSEDED = "Superseded"
"""Why a run ended that nothing was wrong with: it was not wanted any more."""

MISSED = "ScheduleMissed"
"""The note of a tick that could not start in time."""


class Cause(StrEnum):
    """Why a run starts."""

    SPEC = "Spec"
    REQUEST = "Request"
    TICK = "Tick"


@dataclass(frozen=True, slots=True)
class Trigger:
    """One run that is due."""

    cause: Cause
    run_id: str
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Calendar:
    """Where the schedule stands. `due`: the tick that waits to be run."""

    last: str = ""
    next: str = ""
    observed: str = ""
    due: datetime | None = None
    notes: tuple[Note, ...] = ()


def wanted_hash(adapter: SocAdapter, observed: Observed) -> str | None:
    """The training hash of the spec as it stands; None while the pool or its base's digest is not known."""
    pool = observed.pools.get(adapter.spec.serving_pool_ref.name)
    base = problems.base_digest(pool) if pool else None
    spec = adapter.spec
    return training_hash(spec.data, spec.lora, spec.sft, spec.grpo, base) if base else None


def run_ids(adapter: SocAdapter, observed: Observed, now: datetime) -> tuple[str, ...]:
    """The runs that planning may look at: those to be observed before `plan` is called.

    None for an adapter at rest, so that a cluster full of them is planned for without a look at any store.
    """
    status, wanted = adapter.status, wanted_hash(adapter, observed)
    asked, tick = requested(adapter), calendar(adapter, now).due
    new = wanted is not None and _is_new(adapter, observed, wanted, status.last_run)
    if status.run is None and asked is None and tick is None and not new:
        return ()
    known = [run.run_id for run in (status.run, status.last_run) if run]
    if wanted is not None:
        known.append(spec_run_id(adapter, wanted))
        known += [_id(adapter, wanted, f"request:{stamp(asked)}")] if asked else []
        known += [_id(adapter, wanted, f"tick:{stamp(tick)}")] if tick else []
    return tuple(dict.fromkeys(known))


def spec_run_id(adapter: SocAdapter, wanted: str) -> str:
    """The id of the run that a new training spec asks for."""
    return _id(adapter, wanted, "spec")


def requested(adapter: SocAdapter) -> datetime | None:
    """The time of a request that was not taken up yet: another one than the last, be it of a clock that went back.

    To the second, as the status keeps it.
    """
    asked = parse(adapter.metadata.annotations.get(TRAIN_REQUESTED_AT, ""))
    asked = asked.replace(microsecond=0) if asked else None
    return asked if asked != parse(adapter.status.train_requested_at) else None


def calendar(adapter: SocAdapter, now: datetime) -> Calendar:
    """The schedule's bookkeeping at `now`. A schedule that cannot be followed has no ticks.

    An edited schedule, and one that was suspended, starts afresh: only ticks to come count. So does one whose next tick
    a clock that was ahead has put too far away.
    """
    wanted, status = adapter.spec.schedule, adapter.status
    if wanted is None or not schedule.followable(wanted):
        return Calendar(last=status.last_schedule_time)
    text = f"{wanted.cron} {wanted.time_zone}"
    awaited = _awaited(adapter, wanted, now)
    if adapter.spec.suspend or status.observed_schedule != text or awaited is None:
        return Calendar(status.last_schedule_time, stamp(schedule.following(wanted, now)), text)
    if now < awaited:
        return Calendar(status.last_schedule_time, stamp(awaited), text)
    tick = schedule.latest(wanted, now)
    if now - tick <= _duration(wanted.starting_deadline):
        return Calendar(status.last_schedule_time, status.next_schedule_time, text, tick)
    missed = Note(
        MISSED,
        f"the tick of {stamp(tick)} could not start within startingDeadline {wanted.starting_deadline}",
        warning=True,
    )
    return Calendar(stamp(tick), stamp(schedule.following(wanted, now)), text, None, (missed,))


def taken(adapter: SocAdapter, dates: Calendar, now: datetime) -> Calendar:
    """`dates` once the due tick was taken up by a run."""
    if dates.due is None or adapter.spec.schedule is None:
        return dates
    return Calendar(stamp(dates.due), stamp(schedule.following(adapter.spec.schedule, now)), dates.observed)


def due(
    adapter: SocAdapter, observed: Observed, wanted: str, last_run: RunStatus | None, dates: Calendar
) -> Trigger | None:
    """The run that should start now, if any. `last_run` is the last finished one."""
    if _is_new(adapter, observed, wanted, last_run):
        return Trigger(Cause.SPEC, spec_run_id(adapter, wanted))
    if asked := requested(adapter):
        return _asked(adapter, observed, wanted, last_run, asked)
    if dates.due is not None:
        return Trigger(Cause.TICK, _id(adapter, wanted, f"tick:{stamp(dates.due)}"))
    return None


def _is_new(adapter: SocAdapter, observed: Observed, wanted: str, last_run: RunStatus | None) -> bool:
    tried = last_run is not None and last_run.training_hash == wanted and last_run.reason != SUPERSEDED
    return not tried and all(version.spec.training_hash != wanted for version in observed.versions)


def _asked(
    adapter: SocAdapter, observed: Observed, wanted: str, last_run: RunStatus | None, asked: datetime
) -> Trigger:
    """A run that failed for a passing reason is resumed. After any other a new one starts, and also where the run ended
    well and what it published failed its checks.
    """
    if last_run is not None and last_run.training_hash == wanted and last_run.state == RunState.FAILED:
        view = observed.runs.get(last_run.run_id)
        if view is not None and view.state is RunState.FAILED and view.retryable:
            return Trigger(Cause.REQUEST, last_run.run_id, last_run.number)
    return Trigger(Cause.REQUEST, _id(adapter, wanted, f"request:{stamp(asked)}"))


def _awaited(adapter: SocAdapter, wanted: Schedule, now: datetime) -> datetime | None:
    """The tick that is waited for: never later than the next one that was not taken."""
    awaited = parse(adapter.status.next_schedule_time)
    if awaited is None or awaited <= now:
        return awaited
    coming = schedule.following(wanted, now)
    if coming == parse(adapter.status.last_schedule_time):  # the clock went back behind it
        coming = schedule.following(wanted, coming)
    return min(awaited, coming)


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except OverflowError:
        return timedelta.max


def _id(adapter: SocAdapter, wanted: str, cause: str) -> str:
    return identity.run_id(adapter.metadata.name, adapter.metadata.uid, wanted, cause)
