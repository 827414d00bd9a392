"""What a summary's claims are worth beside the evidence that it cites."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_agent.grounding import ungrounded
from socadapter_agent.protocol import Answer
from socadapter_api.case import Verdict
from socadapter_api.trajectory import CallOutcome, ToolCall

UPDATE = ToolCall(tool="dns", evidence_id="e1", result="7 rows, resolver=local, hours=day: update site")
DESKTOP = ToolCall(tool="processes", evidence_id="e2", result="3 rows, parent=desktop, hours=day: remote desktop")
NOTHING = ToolCall(tool="flows", evidence_id="e3", result="no data", outcome=CallOutcome.NO_DATA)
SHORT = ToolCall(tool="flows", evidence_id="e4", result="42 ok")


def answer(summary: str, *citations: str) -> Answer:
    return Answer(Verdict.FALSE_POSITIVE, summary, citations)


@pytest.mark.parametrize(
    ("summary", "faults"),
    [
        ("Harmless: dns shows update site; processes shows remote desktop.", 0),
        ("Software was UPDATED from its site while the desktop was used.", 0),
        ("Harmless: social networks shows dropow below; processes shows dropow below.", 2),
        ("Harmless: dns shows update site; processes shows space.", 1),
        ("It was day.", 0),
        ("The resolver was as ever.", 1),
        ("Harmless: update site, remote desktop, geo=AT.", 1),
        ("Harmless: update site, remote desktop, errorCode=AccessDenied, DeviceName=7, Parent=desktop.", 3),
        ("", 0),
    ],
)
def test_what_is_cited_is_told(summary: str, faults: int) -> None:
    """A citation needs a word of its evidence, and names of fields are none; without a summary none is asked for."""
    assert ungrounded(answer(summary, "e1", "e2"), [UPDATE, DESKTOP]) == faults


def test_evidence_without_words_is_not_missed() -> None:
    """That a tool knew nothing can be told in any words, and so can what has no word of three letters."""
    assert ungrounded(answer("Neither knows it.", "e3", "e4"), [NOTHING, SHORT]) == 0
    assert ungrounded(answer("Neither knows it.", "e3", "e5"), [NOTHING, SHORT]) == 1


@pytest.mark.parametrize("outcome", [outcome for outcome in CallOutcome if outcome.environment_failed])
def test_what_failed_is_no_evidence(outcome: CallOutcome) -> None:
    """A tool that gave nothing bears nothing out, although its call has an id."""
    failed = ToolCall(tool="dns", evidence_id="e1", result="error: dns did not answer", outcome=outcome)
    assert ungrounded(answer("Attack: dns did not answer.", "e1"), [failed]) == 1


def test_a_field_may_be_told_by_its_name() -> None:
    """As ``field=``, or in prose."""
    counted = ToolCall(tool="history", evidence_id="e1", result="known=yes; failures=9; DeviceName=web")
    assert ungrounded(answer("Attack: failures=9 DeviceName=web [e1]", "e1"), [counted]) == 0
    assert ungrounded(answer("A known device.", "e1"), [counted]) == 0


@given(st.text(), st.lists(st.text()), st.text())
def test_grounding_never_raises(summary: str, citations: list[str], result: str) -> None:
    """Any summary can be judged, and one that quotes a result whole is grounded."""
    calls = [ToolCall(tool="dns", evidence_id="e1", result=result)]
    assert ungrounded(Answer(Verdict.ESCALATE, summary, tuple(citations)), calls) >= 0
    assert ungrounded(Answer(Verdict.ESCALATE, result, ("e1",)), calls) == 0
