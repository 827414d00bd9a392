"""Recorded evidence: what the model reads of it, and what an unrecorded call means."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_agent.protocol import system_prompt
from socadapter_agent.replay import MAX_RENDERED_CHARACTERS, ReplayToolbox, render_evidence, specs_of_cases
from socadapter_agent.tools import GuardedToolbox
from socadapter_api.case import Alert, Case
from socadapter_api.errors import ReplayMiss as ReplayMissError
from socadapter_api.training import ReplayMiss
from socadapter_api.trajectory import CallOutcome

AT = datetime(2024, 3, 1, 12, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("2024-06-31T00:00:00Z"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param("as it is 2024-03-01", "as it is 2024-03-01", id="text"),
        pytest.param({"user": "mlee", "count": 3, "ratio": 0.12345, "known": True}, None, id="object"),
        pytest.param({"at": "2024-03-01T11:55:00Z"}, "at=-5m", id="minutes before"),
        pytest.param({"at": "2024-03-01T12:00:30Z"}, "at=+30s", id="seconds after"),
        pytest.param({"at": "2024-02-28 12:00"}, "at=-2d", id="days before, no zone"),
        pytest.param({"at": "2024-03-01T16:00:00+02:00"}, "at=+2h", id="another zone"),
        pytest.param({"at": "2024-02-20"}, "at=-10d", id="a date"),
        pytest.param({"at": "2024-06-31T00:00:00Z", "n": 1}, "n=1", id="no such day"),
        pytest.param({"ips": ["a", "b", 3]}, "ips=a,b,3", id="list"),
        pytest.param({"seen": ["2024-03-01T11:59:00Z", None, "x"]}, "seen=-1m,null,x", id="list with times"),
        pytest.param({"rows": [{"a": 1, "b": "x"}, {"a": 2}]}, "rows: a=1 b=x | a=2", id="list of objects"),
        pytest.param([{"a": 1}, {"a": 2}], "a=1 | a=2", id="bare list of objects"),
        pytest.param(["a", "b"], "a,b", id="bare list"),
        pytest.param({"outer": {"inner": {"deep": 1}}}, "deep=1", id="nested"),
        pytest.param({"empty": "", "none": None, "list": [], "x": 0}, "x=0", id="empty values are left out"),
        pytest.param({}, "no data", id="empty object"),
        pytest.param("", "no data", id="empty text"),
        pytest.param([], "no data", id="empty list"),
        pytest.param({"n": list(range(20))}, "n=0,1,2,3,4,5", id="long list"),
    ],
)
def test_evidence_is_short_text(value: Any, text: str | None) -> None:
    """Objects become `key=value`, times are told from the alert's own, what is empty is left out."""
    assert (text or "user=mlee; count=3; ratio=0.123; known=true") == render_evidence(value, AT)


def test_times_are_dropped_where_the_alert_has_none() -> None:
    """Without the alert's time no time is shown: a date alone can betray the label."""
    value = {"at": "2024-03-01T11:55:00Z", "user": "mlee", "seen": ["2024-03-01T11:55:00Z"], "made": "2024-02-05"}
    assert render_evidence(value) == "user=mlee"


@given(
    st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2090, 1, 1)),
    st.timedeltas(max_value=timedelta(10**4), min_value=timedelta(-(10**4))),
)
def test_no_absolute_time_is_shown(observed_at: datetime, offset: timedelta) -> None:
    """Equal distances read alike whatever the date."""
    there = render_evidence({"at": (AT + offset).isoformat()}, AT)
    here = render_evidence({"at": (observed_at.replace(tzinfo=UTC) + offset).isoformat()}, observed_at)
    assert there == here
    assert there.startswith(("at=+", "at=-"))


@given(JSON, st.none() | st.just(AT) | st.just(AT.replace(tzinfo=None)))
def test_any_evidence_can_be_rendered(value: Any, observed_at: datetime | None) -> None:
    """No JSON breaks the rendering, and none is longer than the limit."""
    assert 0 < len(render_evidence(value, observed_at)) <= MAX_RENDERED_CHARACTERS


def _toolbox(miss: ReplayMiss) -> ReplayToolbox:
    case = Case.model_validate({"id": "1", "alert": {}, "evidence": {"dns": {"n": 1}, "asset": "x"}, "label": "TP"})
    other = Case.model_validate({"id": "2", "alert": {}, "evidence": {"mail": "x"}, "label": "TP"})
    return ReplayToolbox(case.evidence, specs_of_cases([case, other]), miss)


async def test_recorded_tools_answer_whatever_they_are_asked() -> None:
    """The recording answers under any arguments, and names none to the model; the tools are those of all cases."""
    toolbox = _toolbox(ReplayMiss.UNSCORABLE)
    assert [spec.name for spec in toolbox.specs] == ["asset", "dns", "mail"]
    assert system_prompt(toolbox.specs).endswith("Tools:\nasset()\ndns()\nmail()")
    assert (await toolbox.call("dns", {"host": "a"}, Alert({}))).text == "n=1"
    assert (await toolbox.call("dns", {}, Alert({}))).outcome is CallOutcome.OK


async def test_a_miss_is_no_data_where_the_policy_says_so() -> None:
    """Under `NoData`, what was not recorded is an answer like any other."""
    answer = await _toolbox(ReplayMiss.NO_DATA).call("mail", {}, Alert({}))
    assert (answer.text, answer.outcome) == ("no data", CallOutcome.NO_DATA)


async def test_a_miss_is_unscorable_where_the_policy_says_so() -> None:
    """Under `Unscorable`, it is an error with a name, which the guard turns into an outcome, never into an outage."""
    toolbox = _toolbox(ReplayMiss.UNSCORABLE)
    with pytest.raises(ReplayMissError, match="'mail'"):
        await toolbox.call("mail", {}, Alert({}))
    guarded = GuardedToolbox(toolbox, failures_to_open=1)
    for _ in range(3):
        assert (await guarded.call("mail", {}, Alert({}))).outcome is CallOutcome.REPLAY_MISS
