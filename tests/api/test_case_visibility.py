"""What a model may see of a case: its alert, and no way back to its truth."""

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.case import ANSWERS, Alert, Case, Verdict, parse_label
from socadapter_api.errors import UnknownLabel

SECRET = "hidden-8d1f"


def case(**fields: Any) -> Case:
    return Case.model_validate({"id": "c1", "alert": {"title": "Odd sign-in"}, "label": "TP"} | fields)


def test_alert_has_no_path_to_the_truth() -> None:
    """Everything that is reachable from a visible alert is its own fields and its time."""
    assert {field.name for field in dataclasses.fields(Alert)} == {"fields", "observed_at"}
    hidden = case(
        id=SECRET,
        context=SECRET,
        evidence={"signins": SECRET},
        entities=[SECRET],
        group=SECRET,
        source=SECRET,
        label="TP",
        observed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    seen = repr(hidden.visible())
    assert SECRET not in seen
    assert "positive" not in seen
    assert not hasattr(hidden.visible(), "__dict__")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("TP", Verdict.TRUE_POSITIVE, id="TP"),
        pytest.param("BTP", Verdict.BENIGN_TRUE_POSITIVE, id="BTP"),
        pytest.param("FP", Verdict.FALSE_POSITIVE, id="FP"),
        pytest.param("UNDECIDABLE", Verdict.ESCALATE, id="UNDECIDABLE"),
        *(pytest.param(answer.value, answer, id=answer.value) for answer in ANSWERS),
    ],
)
def test_labels(text: str, expected: Verdict) -> None:
    """A data set's short labels and the verdicts' own names are understood."""
    assert parse_label(text) is expected
    assert case(label=text).label is expected


@given(text=st.text().filter(lambda text: text not in ("TP", "BTP", "FP", "UNDECIDABLE", *ANSWERS)))
def test_any_other_label_is_refused(text: str) -> None:
    """A label outside the vocabulary is an error that says where it stands."""
    with pytest.raises(UnknownLabel, match="row 7"):
        parse_label(text, where="row 7")


def test_invalid_is_no_label() -> None:
    """`invalid` records an unreadable answer; no alert is labelled with it."""
    assert Verdict.INVALID not in ANSWERS
    with pytest.raises(UnknownLabel):
        parse_label(Verdict.INVALID.value)


@pytest.mark.parametrize(
    ("label", "attack", "decidable"),
    [
        pytest.param("TP", True, True, id="attack"),
        pytest.param("BTP", False, True, id="benign"),
        pytest.param("FP", False, True, id="false alarm"),
        pytest.param("UNDECIDABLE", False, False, id="undecidable"),
    ],
)
def test_classes(label: str, attack: bool, decidable: bool) -> None:
    """Only a true positive counts as an attack, and only an undecidable case is scored apart."""
    assert (case(label=label).is_attack, case(label=label).decidable) == (attack, decidable)


def test_a_time_without_a_zone_is_in_utc() -> None:
    """So that any two compare, and alike on every machine."""
    told = ("2026-03-01T08:15:00", "2026-03-01T09:15:00+01:00")
    first, second = (Case.model_validate({"id": "x", "alert": {}, "label": "TP", "observed_at": at}) for at in told)
    assert first.observed_at == second.observed_at


def test_reads_the_layout_of_public_sets() -> None:
    """A row with more columns than ours is read; those columns go nowhere."""
    row = json.loads('{"id": "r1", "alert": {"title": "x"}, "evidence": {"logs": ["a"]}, "label": "FP", "rule_id": 7}')
    assert not hasattr(Case.model_validate(row), "rule_id")
