"""Cron in a time zone."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.adapter import Schedule
from socadapter_api.errors import SpecError
from socadapter_operator.domain import schedule

VIENNA = "Europe/Vienna"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("cron", "zone", "now", "latest", "following"),
    [
        pytest.param(
            "0 2 * * *", "UTC", "2026-03-02T12:00Z", "2026-03-02T02:00Z", "2026-03-03T02:00Z", id="every night in UTC"
        ),
        pytest.param(
            "0 2 * * *", VIENNA, "2026-01-10T12:00Z", "2026-01-10T01:00Z", "2026-01-11T01:00Z", id="winter in Vienna"
        ),
        pytest.param(
            "0 2 * * *", VIENNA, "2026-07-10T12:00Z", "2026-07-10T00:00Z", "2026-07-11T00:00Z", id="summer in Vienna"
        ),
        pytest.param(
            "0 2 * * *", "UTC", "2026-03-02T02:00Z", "2026-03-02T02:00Z", "2026-03-03T02:00Z", id="at the tick itself"
        ),
        pytest.param(
            "30 2 * * *",
            VIENNA,
            "2026-03-29T01:10Z",
            "2026-03-28T01:30Z",
            "2026-03-29T01:30Z",
            id="a skipped hour's tick comes when the clock has passed it",
        ),
        pytest.param(
            "30 2 * * *", VIENNA, "2026-03-29T01:30Z", "2026-03-29T01:30Z", "2026-03-30T00:30Z", id="and once only"
        ),
        pytest.param(
            "30 2 * * *",
            VIENNA,
            "2026-10-25T01:40Z",
            "2026-10-25T00:30Z",
            "2026-10-26T01:30Z",
            id="a repeated hour's tick counts the first time",
        ),
        pytest.param(
            "30 2 * * *",
            VIENNA,
            "2026-10-25T01:05Z",
            "2026-10-25T00:30Z",
            "2026-10-26T01:30Z",
            id="and is not lost while the clock shows less than it again",
        ),
        pytest.param("0 3 29 2 *", "UTC", "2026-03-02T00:00Z", "2024-02-29T03:00Z", "2028-02-29T03:00Z", id="leap day"),
        pytest.param(
            "0 2 * * 1-5", "UTC", "2026-03-07T12:00Z", "2026-03-06T02:00Z", "2026-03-09T02:00Z", id="working days"
        ),
    ],
)
def test_ticks(cron: str, zone: str, now: str, latest: str, following: str) -> None:
    """The last tick that is due and the next one, across changes of the clock."""
    wanted = Schedule(cron=cron, time_zone=zone)
    assert (at(latest), at(following)) == (
        schedule.latest(wanted, at(now)),
        schedule.following(wanted, at(now)),
    )


@pytest.mark.parametrize(
    ("cron", "zone", "what"),
    [
        pytest.param("0 2 30 2 *", "UTC", "never fires", id="30 February"),
        pytest.param("0 25 * * *", "UTC", "five fields", id="hour 25"),
        pytest.param("0 0 2 * * *", "UTC", "five fields", id="seconds"),
        pytest.param("every night", "UTC", "five fields", id="words"),
        pytest.param("0 2 * * *", "Europe/Wien", "IANA time zone", id="unknown zone"),
        pytest.param("0 2 * * *", "../../etc/passwd", "IANA time zone", id="path for a zone"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(cron: str, zone: str, what: str) -> None:
    """The error quotes what was written and says what is wrong with it."""
    wanted = Schedule(cron=cron, time_zone=zone)
    with pytest.raises(SpecError, match=what):
        schedule.check(wanted)
    assert not schedule.followable(wanted)


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC)),
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    zone=st.sampled_from(["UTC", VIENNA, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
)
def test_a_daily_schedule_ticks_once_a_day(now: datetime, minute: int, hour: int, zone: str) -> None:
    """At any moment the last tick is past, the next is to come, and they are a day apart, clock changes included."""
    wanted = Schedule(cron=f"{minute} {hour} * * *", time_zone=zone)
    latest, following = schedule.latest(wanted, now), schedule.following(wanted, now)
    assert latest <= now < following
    assert timedelta(hours=22) <= following - latest <= timedelta(hours=26)
    assert latest == schedule.latest(wanted, following - timedelta(seconds=1))
