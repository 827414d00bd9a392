"""Cron schedules in a time zone: the last tick that is due, and the next one to come.

A tick is a wall-clock time of the zone. One that the spring change skips counts at the moment the clock has passed it;
one that the autumn change repeats counts once, the first time. Ticks missed while nobody looked make one tick, the
latest. What a tick starts is decided elsewhere (`triggers`).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter

from socadapter_api.adapter import Schedule
from socadapter_api.errors import SpecError

_LONGEST_CHANGE = timedelta(hours=3)
_YEARS_BETWEEN_LEAP_DAYS = 8
_FIELDS = 5


def check(schedule: Schedule) -> None:
    """Refuses a schedule that cannot be followed.

    Raises:
        SpecError: the cron expression does not parse or never fires, or the time zone is unknown.
    """
    if problem := _fault(schedule.cron, schedule.time_zone):
        raise SpecError(problem)


def followable(schedule: Schedule) -> bool:
    """Whether `check` accepts `schedule`."""
    return not _fault(schedule.cron, schedule.time_zone)


@lru_cache(maxsize=4096)
def _fault(cron: str, time_zone: str) -> str:
    """What is wrong with a schedule; empty where nothing is."""
    made = Schedule(cron=cron, time_zone=time_zone)
    try:
        _zone(made)
        if len(cron.split()) != _FIELDS or not croniter.is_valid(cron):
            return (
                f"schedule.cron {cron!r} is not a cron expression of five fields, such as '0 2 * * *' "
                "(minute, hour, day of month, month, day of week)"
            )
        next(_ticks(made, datetime(2024, 1, 1), backward=False))
    except CroniterBadDateError:
        return f"schedule.cron {cron!r} never fires: no such date exists"
    except SpecError as error:
        return str(error)
    return ""


def latest(schedule: Schedule, now: datetime) -> datetime:
    """The last tick at or before `now`, in UTC."""
    wall = _wall(schedule, now) + timedelta(microseconds=1)
    # While autumn repeats an hour, ticks of its first time are past although their wall time lies ahead.
    if _changed_lately(schedule, now):
        wall += _LONGEST_CHANGE
    return next(tick for tick in _ticks(schedule, wall, backward=True) if tick <= now)


def following(schedule: Schedule, now: datetime) -> datetime:
    """The first tick after `now`, in UTC."""
    wall = _wall(schedule, now)
    # Just after a spring change, ticks of the skipped hour still lie ahead although their wall time is past.
    if _changed_lately(schedule, now):
        wall -= _LONGEST_CHANGE
    return next(tick for tick in _ticks(schedule, wall, backward=False) if tick > now)


def _changed_lately(schedule: Schedule, now: datetime) -> bool:
    return _wall(schedule, now - _LONGEST_CHANGE) != _wall(schedule, now) - _LONGEST_CHANGE


def _ticks(schedule: Schedule, wall: datetime, *, backward: bool) -> Iterator[datetime]:
    zone = _zone(schedule)
    times = croniter(schedule.cron, wall, max_years_between_matches=_YEARS_BETWEEN_LEAP_DAYS)
    while True:
        tick: datetime = times.get_prev(datetime) if backward else times.get_next(datetime)
        yield tick.replace(tzinfo=zone).astimezone(UTC)


def _wall(schedule: Schedule, moment: datetime) -> datetime:
    return moment.astimezone(_zone(schedule)).replace(tzinfo=None, fold=0)


def _zone(schedule: Schedule) -> ZoneInfo:
    try:
        return ZoneInfo(schedule.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SpecError(
            f"schedule.timeZone {schedule.time_zone!r} is not an IANA time zone, such as 'Europe/Vienna'"
        ) from None
