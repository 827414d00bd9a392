"""The night's verdicts: what training may take up, and what a poisoner cannot do."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.case import Case, Verdict
from socadapter_api.errors import MalformedRow
from socadapter_api.feedback import Feedback, FeedbackRecord
from socadapter_api.training import FeedbackSpec
from socadapter_jobs.data.feedback import Night, from_feedback, read_feedback

NOW = 1_700_000_000.0
FP, TP = Verdict.FALSE_POSITIVE, Verdict.TRUE_POSITIVE


def record(
    trajectory: str,
    analyst: str = "ann",
    verdict: Verdict = FP,
    *,
    age_h: float = 1.0,
    approved: bool = False,
    alert: dict[str, Any] | None = None,
    caller: str = "",
    role: str = "stable",
    **investigation: Any,
) -> FeedbackRecord:
    return FeedbackRecord(
        feedback=Feedback(trajectory_id=trajectory, verdict=verdict, analyst=analyst, approved=approved),
        caller=caller,
        context="cloud",
        version="cloud-v1-00000000",
        role=role,
        alert=alert or {"title": trajectory},
        given_at=NOW - age_h * 3600,
        trajectory={
            "verdict": FP.value,
            "summary": "quiet host",
            "citations": ["e1", "e9"],
            "calls": [
                {"tool": "get", "evidence_id": "e1", "result": "x=1"},
                {"tool": "get", "evidence_id": "e2", "result": "x=2"},
                {"tool": "down", "evidence_id": "e3", "result": "error", "outcome": "outage"},
            ],
            **investigation,
        },
    )


def night(*records: FeedbackRecord, percent: int = 100, least: int = 1) -> Night:
    spec = FeedbackSpec(min_verdicts=least, max_per_analyst_percent=percent)
    return from_feedback(records, spec, context="cloud")


def test_a_case_says_what_the_verdict_is_about() -> None:
    """The version that answered, or the base, whatever name that goes by."""
    sources = [night(record("a", role=role)).cases[0].source for role in ("stable", "base")]
    assert ["on an answer of cloud-v1-00000000", "on an answer of the base"] == [
        source[source.index("on an answer") :] for source in sources
    ]


def test_a_verdict_becomes_a_case_with_the_evidence_that_was_read() -> None:
    """The analyst's verdict is the label; answered calls are the evidence, failed ones are not."""
    (case,) = night(record("a", verdict=TP)).cases
    assert case.label is TP
    assert case.evidence == {"get": "x=1\nx=2"}
    assert case.alert == {"title": "a"}


def test_a_case_is_as_old_as_its_alert() -> None:
    """Not as old as the verdict on it: tools that answer as of that time would tell what came of the alert since."""
    raised = datetime(2023, 11, 14, 20, 0, tzinfo=UTC)
    found = night(record("a", approved=True).model_copy(update={"observed_at": raised}), record("b"))
    assert [raised, None] == [case.observed_at for case in found.cases]
    assert [raised.isoformat()] == [expert.observed_at for expert in found.trajectories]


def test_an_approved_investigation_becomes_an_expert() -> None:
    """With the answered calls, and only citations of those."""
    (expert,) = night(record("a", approved=True)).trajectories
    assert [call.evidence_id for call in expert.calls] == ["e1", "e2"]
    assert expert.citations == ("e1",)
    assert expert.approved_by == "ann"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(record("a"), id="not-approved"),
        pytest.param(record("a", verdict=TP, approved=True), id="approved-against-its-own-verdict"),
    ],
)
def test_what_is_no_expert(given: FeedbackRecord) -> None:
    """An investigation that came to another verdict than the analyst teaches its label, not its reasoning."""
    found = night(given)
    assert len(found.cases) == 1
    assert found.trajectories == ()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param(record("a").model_copy(update={"context": "network"}), "other context", id="other-context"),
        pytest.param(record("a", verdict=Verdict.INVALID), "no verdict", id="invalid"),
        pytest.param(record("a", scorable=False), "decided by an outage", id="outage"),
    ],
)
def test_what_is_left_out_is_counted(given: FeedbackRecord, reason: str) -> None:
    """Every record that does not count has its reason."""
    found = night(given)
    assert found.cases == ()
    assert found.left_out == {reason: 1}
    assert "fewer than minVerdicts" in found.skipped


def test_a_verdict_on_an_alert_of_the_holdout_is_left_out() -> None:
    """Its id and its evidence are others than the holdout's: the alert alone tells, and is counted."""
    held = Case(id="held", alert={"title": "a"}, evidence={"get": {"x": 1}}, label=FP)
    records = [record("a", approved=True), record("b", approved=True)]
    spec = FeedbackSpec(min_verdicts=2, max_per_analyst_percent=100)
    found = from_feedback(records, spec, context="cloud", holdout=[held])
    assert ["feedback-b"] == [case.id for case in found.cases] == [expert.case_id for expert in found.trajectories]
    assert {"in the holdout": 1} == found.left_out
    assert "1 in the holdout" in found.skipped


def test_what_was_asked_for_is_learned_from() -> None:
    """Verdicts of a run that waited in the queue are no longer inside the window, and no later night asks for them."""
    assert 2 == len(night(record("a", age_h=1), record("b", age_h=100)).cases)


def test_the_last_word_counts() -> None:
    """An analyst who changes their mind does not contradict themselves."""
    found = night(record("a", verdict=TP, age_h=2), record("a", verdict=FP, age_h=1))
    assert [case.label for case in found.cases] == [FP]
    assert found.left_out == {"revised": 1}


def test_disagreement_is_held_out_for_a_person() -> None:
    """On one investigation, or on equal alerts in two: neither label is learned."""
    same = {"title": "same"}
    found = night(
        record("a", "ann", TP),
        record("a", "bob", FP),
        record("b", "ann", TP, alert=same),
        record("c", "bob", FP, alert=same),
        record("d", "ann", FP),
    )
    assert [case.id for case in found.cases] == ["feedback-d"]
    assert found.disputed == ("a", "b", "c")


def test_no_analyst_gives_more_than_their_share() -> None:
    """A flood from one account is cut down to the limit; the others' verdicts all count."""
    flood = [record(f"m{i}", "mallory") for i in range(90)]
    rest = [record(f"{name}{i}", name) for name in ("ann", "bob") for i in range(5)]
    found = night(*flood, *rest, percent=50)
    by_mallory = sum(case.id.startswith("feedback-m") for case in found.cases)
    assert by_mallory == 10
    assert len(found.cases) == 20
    assert found.left_out == {"analyst limit": 80}
    assert night(*reversed([*flood, *rest]), percent=50).cases == found.cases


def test_a_single_analyst_needs_a_limit_of_a_hundred() -> None:
    """Under any lower limit one person's night is skipped, and the reason names the limit."""
    alone = [record(str(i)) for i in range(30)]
    assert len(night(*alone, percent=100).cases) == 30
    found = night(*alone, percent=50)
    assert found.cases == ()
    assert "30 analyst limit" in found.skipped


def test_a_caller_gives_no_more_under_many_names() -> None:
    """Names that one caller makes up share that caller's limit; the other callers' verdicts all count."""
    flood = [record(f"m{i}", f"mallory-{i}", caller="mallory") for i in range(90)]
    rest = [record(f"{name}{i}", name, caller="soar") for name in ("ann", "bob") for i in range(5)]
    found = night(*flood, *rest, percent=50)
    assert sum(case.id.startswith("feedback-m") for case in found.cases) == 10
    assert len(found.cases) == 20
    assert found.left_out == {"caller limit": 80}
    assert night(*reversed([*flood, *rest]), percent=50).cases == found.cases
    assert len(night(*flood, *rest, percent=100).cases) == 100


def test_the_only_caller_vouches_for_its_analysts() -> None:
    """Its share is everything, and callers are never asked for less than equal shares; the analysts' limit stands."""
    alone = [record(f"{name}{i}", name, caller="soar") for name in ("ann", "bob", "eve") for i in range(5)]
    assert len(night(*alone, percent=40).cases) == 15
    three = [
        record(f"{caller}{name}", name, caller=caller) for caller in ("soar", "portal", "mail") for name in "abcdefgh"
    ]
    assert len(night(*three, percent=20).cases) == 24


def test_both_limits_hold_together() -> None:
    """What one limit takes away never lets somebody exceed the other."""
    uneven = [record(f"s{i}", f"s{i % 7}", caller="soar") for i in range(60)]
    uneven += [record(f"p{i}", "pat", caller="portal") for i in range(40)]
    uneven += [record(f"q{i}", f"q{i % 3}", caller="portal") for i in range(9)]
    cases = night(*uneven, percent=30).cases
    givers = {item.feedback.trajectory_id: item for item in uneven}
    by_analyst = Counter(givers[case.id.removeprefix("feedback-")].feedback.analyst for case in cases)
    by_caller = Counter(givers[case.id.removeprefix("feedback-")].caller for case in cases)
    assert len(cases) > 0
    assert max(by_analyst.values()) * 100 <= 30 * len(cases)
    assert max(by_caller.values()) * 100 <= 50 * len(cases)


def test_one_name_of_two_callers_is_two_analysts() -> None:
    """Another caller's contrary word under ann's name does not become ann's last one: they disagree."""
    found = night(record("a", verdict=TP, age_h=2, caller="soar"), record("a", verdict=FP, age_h=1, caller="mallory"))
    assert found.cases == ()
    assert found.disputed == ("a",)


def test_a_thin_night_is_skipped() -> None:
    """Fewer verdicts than the spec asks for: said in words, not raised."""
    assert night(record("a"), least=2).skipped.startswith("1 usable verdicts in the last 24h")
    assert night(record("a"), record("b"), least=2).skipped == ""


def test_two_analysts_on_one_investigation_make_one_case() -> None:
    """Agreement does not count double."""
    found = night(record("a", "ann", approved=True), record("a", "bob", approved=True))
    assert len(found.cases) == len(found.trajectories) == 1


def test_a_wrong_row_of_an_export_is_named(tmp_path: Path) -> None:
    """File and line, as for every other source."""
    path = tmp_path / "feedback.jsonl"
    path.write_text(record("a").model_dump_json() + "\n" + json.dumps({"context": "cloud"}) + "\n", encoding="utf-8")
    records = read_feedback(str(path))
    assert next(records).feedback.trajectory_id == "a"
    with pytest.raises(MalformedRow, match=r"feedback\.jsonl:2: field 'feedback'"):
        next(records)


def test_a_stored_investigation_that_cannot_be_read_is_named() -> None:
    """The trajectory's id stands in the message."""
    with pytest.raises(MalformedRow, match="'a'"):
        night(record("a", calls="none"))
