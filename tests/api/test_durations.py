"""Durations: Go's notation, parsed once."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.errors import SpecError
from socadapter_api.model import parse_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("90s", timedelta(seconds=90), id="seconds"),
        pytest.param("1h30m", timedelta(minutes=90), id="hours and minutes"),
        pytest.param("250ms", timedelta(milliseconds=250), id="milliseconds"),
        pytest.param("1.5h", timedelta(minutes=90), id="fraction"),
        pytest.param("0s", timedelta(0), id="zero"),
    ],
)
def test_reads(text: str, expected: timedelta) -> None:
    """The notation of Kubernetes' own durations is understood."""
    assert parse_duration(text) == expected


@given(hours=st.integers(0, 9999), minutes=st.integers(0, 59), milliseconds=st.integers(0, 59_999))
def test_parts_add_up(hours: int, minutes: int, milliseconds: int) -> None:
    """A duration is the sum of its parts; `m` is never taken for `ms`, nor the other way about."""
    expected = timedelta(hours=hours, minutes=minutes, milliseconds=milliseconds)
    parsed = parse_duration(f"{hours}h{minutes}m{milliseconds}ms")
    assert abs(parsed - expected) <= timedelta(microseconds=1)


@pytest.mark.parametrize("text", ["", "5", "h", "1d", "-1s", "1 h", "1h ", "1e3s", "1h\n"])
def test_refuses(text: str) -> None:
    """Anything else is refused, with the text and an example."""
    with pytest.raises(SpecError, match="is not of the form '1h30m'"):
        parse_duration(text)
