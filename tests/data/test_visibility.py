"""What is hidden and what is made relative before a model may see it."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_agent.replay import relative
from socadapter_jobs.data.visibility import at_path, parse_time, with_relative_times, without

AT = datetime(2024, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("2024-03-01T12:00:00Z", "+0s", id="now"),
        pytest.param("2024-03-01T11:55:00Z", "-5m", id="zulu"),
        pytest.param("2024-03-01 11:55:00.123000000", "-5m", id="nanoseconds"),
        pytest.param("2024-03-01T14:00:00+01:00", "+1h", id="zone"),
        pytest.param("2024-03-01 11:59:30 UTC", "-30s", id="utc-in-letters"),
        pytest.param("2024-02-01T12:00", "-29d", id="minutes-only"),
        pytest.param("2024-99-01T12:00:00Z", "2024-99-01T12:00:00Z", id="no-such-month"),
        pytest.param("version 2024-03-01", "version 2024-03-01", id="a-date-in-a-text"),
        pytest.param(1709294400, 1709294400, id="a-number"),
    ],
)
def test_times_are_told_from_the_alert(text: object, shown: object) -> None:
    """In the largest unit; what is no time stays as it is."""
    assert with_relative_times({"x": [text]}, AT) == {"x": [shown]}


def test_without_a_reference_times_are_left_out() -> None:
    """A date that cannot be made relative must not be shown as it is; a null stays null."""
    assert with_relative_times({"a": "2024-03-01T12:00:00Z", "b": None, "c": 1}, None) == {"b": None, "c": 1}


_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(_values)
def test_no_absolute_time_is_left(value: Any) -> None:
    """Whatever the nesting."""
    assert not re.search(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", json.dumps(with_relative_times(value, AT)))


@given(st.integers(-(10**8), 10**8))
def test_spans_keep_sign_and_size(seconds: int) -> None:
    """Within half a unit of what was meant."""
    text = relative(seconds)
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}[text[-1]]
    assert abs(int(text[:-1]) * unit - seconds) <= unit / 2


@pytest.mark.parametrize(
    ("hidden", "kept"),
    [
        pytest.param({"days"}, set(), id="plain-name-anywhere"),
        pytest.param({"tool.days"}, {"row", "other"}, id="dotted"),
        pytest.param({"evidence.other"}, {"tool", "row"}, id="whole-path"),
        pytest.param({"ays"}, {"tool", "row", "other"}, id="part-of-a-name"),
    ],
)
def test_hidden_keys_are_gone(hidden: set[str], kept: set[str]) -> None:
    """A plain name hides wherever it stands, a dotted one only where it ends the path; the rest stays."""
    value = {"tool": {"days": "tool", "n": 1, "rows": [{"days": "row", "x": 2}]}, "other": {"days": "other"}}
    shown = without(value, frozenset(hidden), "evidence")
    assert {word for word in ("tool", "row", "other") if f": {json.dumps(word)}" in json.dumps(shown)} == kept
    assert (shown["tool"]["n"], shown["tool"]["rows"][0]["x"]) == (1, 2)


def test_paths_and_times_that_are_not_there() -> None:
    """None, not an error: the caller knows which row to name."""
    assert at_path({"a": {"b": 1}}, "a.b") == 1
    assert at_path({"a": 3}, "a.b") is None
    assert parse_time(None) is None
    assert parse_time("2024-03-01T12:00:00Z") == AT
    assert (parse_time("2024-03-02T12:00:00") or AT) - AT == timedelta(days=1)
