"""`data check`: what it finds, how grave it is, and what a run refuses."""

import json
import random
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from socadapter_api.case import Case
from socadapter_api.errors import DataError, EmptyData, HoldoutOverlap, LabelLeak, OneClass
from socadapter_jobs.data.check import DataReport, Severity, check
from socadapter_jobs.data.leaks import score_alert_fields, time_fields

START = datetime(2024, 1, 1, tzinfo=UTC)


def cases(
    n: int = 100, change: Callable[[int, bool, dict[str, Any]], None] | None = None, prefix: str = "c"
) -> list[Case]:
    """Sound cases: fields at random, every third an attack; `change` may spoil a row in place."""
    rng = random.Random(prefix)
    made = []
    for place in range(n):
        attack = place % 3 == 0
        row: dict[str, Any] = {
            "id": f"{prefix}{place}",
            "alert": {"title": rng.choice("abc"), "score": rng.randint(0, 99), "n": f"{prefix}{place}"},
            "evidence": {"get": {"x": rng.randint(0, 9)}},
            "label": "TP" if attack else "FP",
            "entities": [f"{prefix}-user{place % 5}"],
            "observed_at": (START + timedelta(hours=place + (1000 if prefix == "h" else 0))).isoformat(),
        }
        if change:
            change(place, attack, row)
        made.append(Case.model_validate(row))
    return made


def found(report: DataReport, severity: Severity | None = None) -> set[str]:
    return {f.check for f in report.findings if severity is None or f.severity is severity}


def test_sound_data_raise_nothing() -> None:
    """No error, no warning; what is told is for information."""
    report = check(cases(), cases(prefix="h"))
    assert found(report, Severity.ERROR) == found(report, Severity.WARNING) == set()
    report.require()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            lambda i, attack, row: row["alert"].update(title=f"bad {i % 3}" if attack else "fine"), id="title"
        ),
        pytest.param(lambda i, attack, row: row["alert"].update(score=900 + i if attack else i), id="number"),
        pytest.param(
            lambda i, attack, row: row["alert"].update(at=f"2024-0{2 if attack else 1}-01T00:{i % 60:02}:00Z"),
            id="time",
        ),
        pytest.param(
            lambda i, attack, row: row["alert"].update(at=f"2024-0{2 if attack else 1}-01 00:{i % 60:02}:00 UTC"),
            id="time with its zone's name",
        ),
        pytest.param(
            lambda i, attack, row: row["alert"].update({"stage": f"s{i % 2}"} if attack else {}),
            id="on attacks and on nothing else, which are a third",
        ),
        pytest.param(
            lambda i, attack, row: row["alert"].update(meta={"tags": ["x"] if attack else ["y"]}), id="nested-list"
        ),
        pytest.param(
            lambda i, attack, row: row["alert"].update(tags=[*(f"{n}-{'x' * 90}" for n in range(3)), "ab"[attack]]),
            id="the last of a long list",
        ),
        pytest.param(
            lambda i, attack, row: row["alert"].update({"tags": []} if attack else {}), id="an empty list on attacks"
        ),
    ],
)
def test_a_visible_field_that_tells_the_label_is_an_error(spoil: Callable[[int, bool, dict[str, Any]], None]) -> None:
    """Whatever its type: training on it would teach to read that field."""
    report = check(cases(change=spoil))
    assert "label leak" in found(report, Severity.ERROR)
    with pytest.raises(LabelLeak, match="alone predicts the label"):
        report.require()


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        pytest.param(
            "alert.event.meta.detail.verdict",
            lambda i, said: {"event": {"meta": {"detail": {"verdict": said, "id": i}}}},
            id="five levels down",
        ),
        pytest.param(
            "alert.entities[].verdict",
            lambda i, said: {"entities": [{"name": f"u{i}", "verdict": said}, {"name": "x", "verdict": "unknown"}]},
            id="in one of a list's objects",
        ),
        pytest.param(
            "alert.rows[][].verdict",
            lambda i, said: {"rows": [[{"id": i}], [{"verdict": said}]]},
            id="in a list's lists",
        ),
    ],
)
def test_a_leak_is_named_however_deep_it_lies(field: str, spoil: Callable[[int, str], dict[str, Any]]) -> None:
    """By its path, with ``[]`` for the items of a list; in evidence as in the alert."""
    shown = cases(change=lambda i, attack, row: row["alert"].update(spoil(i, "bad" if attack else "fine")))
    with pytest.raises(LabelLeak, match=re.escape(f"the visible field {field!r} alone predicts")):
        check(shown).require()
    asked = cases(change=lambda i, attack, row: row["evidence"].update(spoil(i, "bad" if attack else "fine")))
    (told,) = [f.message for f in check(asked).findings if f.check == "telling evidence"]
    assert repr(field.removeprefix("alert.")) in told


def test_times_in_lists_are_absolute_times() -> None:
    """Where a date betrays the label it does so in a list, too."""
    dated = cases(change=lambda i, attack, row: row["alert"].update(seen=["first", "2024-01-01T00:00:00Z"]))
    assert {"alert.seen[]": len(dated)} == time_fields(dated)


def test_data_nested_deeper_than_calls_can_be_is_looked_at() -> None:
    """An alert from outside ends no check."""
    deep: dict[str, Any] = {"verdict": "bad"}
    for _ in range(2 * sys.getrecursionlimit()):
        deep = {"a": [deep]}
    nested = cases(change=lambda i, attack, row: row["alert"].update(deep if i == 0 else {}))
    assert {} == time_fields(nested)
    assert {"alert.title", "alert.score", "alert.n"} == {score.field for score in score_alert_fields(nested)}


def test_numbers_that_no_float_holds_are_looked_at() -> None:
    """As other numbers: those of attacks are larger here."""
    large = cases(change=lambda i, attack, row: row["alert"].update(size=10**400 if attack else -(10**400)))
    assert "label leak" in found(check(large), Severity.ERROR)


def test_a_field_unlike_in_every_case_is_no_leak() -> None:
    """Identifiers look decisive only to who looks at the cases that they were learned from."""
    report = check(cases(change=lambda i, attack, row: row["alert"].update(uuid=f"{i:08x}")))
    assert "label leak" not in found(report, Severity.ERROR) | found(report, Severity.WARNING)


def test_telling_evidence_is_a_warning_only() -> None:
    """Evidence is meant to decide; one value that always does deserves a look."""
    report = check(
        cases(change=lambda i, attack, row: row["evidence"]["get"].update(verdict="bad" if attack else "ok"))
    )
    assert "telling evidence" in found(report, Severity.WARNING)
    report.require()


@pytest.mark.parametrize(
    ("train", "holdout", "error"),
    [
        pytest.param([], [], EmptyData, id="empty"),
        pytest.param([c for c in cases() if c.is_attack], [], OneClass, id="one-class"),
        pytest.param(cases(), [c for c in cases(prefix="h") if not c.is_attack], OneClass, id="one-class-holdout"),
        pytest.param(cases(), cases()[:30], HoldoutOverlap, id="the-same-ids"),
        pytest.param(
            cases(),
            [c.model_copy(update={"id": f"renamed-{c.id}"}) for c in cases()[:30]],
            HoldoutOverlap,
            id="the-same-content-under-other-ids",
        ),
    ],
)
def test_what_a_run_refuses(train: list[Case], holdout: list[Case], error: type[DataError]) -> None:
    """Each error has its class, and so its reason in the run's result."""
    with pytest.raises(error):
        check(train, holdout).require()


@pytest.mark.parametrize(
    ("name", "train", "holdout"),
    [
        pytest.param("duplicates", [*cases(), cases()[0].model_copy(update={"id": "again"})], [], id="repeat"),
        pytest.param(
            "contradictions",
            [*cases(), cases()[1].model_copy(update={"id": "against", "label": cases()[0].label})],
            [],
            id="contradiction",
        ),
        pytest.param(
            "duplicates",
            cases(),
            [*cases(prefix="h"), cases(prefix="h")[0].model_copy(update={"id": "again"})],
            id="repeat in the holdout",
        ),
        pytest.param(
            "contradictions",
            cases(),
            [*cases(prefix="h"), cases(prefix="h")[1].model_copy(update={"id": "against", "label": cases()[0].label})],
            id="contradiction in the holdout",
        ),
        pytest.param("class balance", [c for i, c in enumerate(cases(300)) if i % 3 or i < 30], [], id="few-attacks"),
        pytest.param("too few", cases(9), [], id="few-cases"),
        pytest.param(
            "label words",
            cases(change=lambda i, attack, row: row["evidence"].update(note="was false_positive before")),
            [],
            id="label-in-evidence",
        ),
        pytest.param(
            "absolute times",
            cases(change=lambda i, attack, row: row["evidence"].update(last="2024-01-01T00:00:00Z")),
            [],
            id="dates",
        ),
        pytest.param(
            "entity overlap",
            cases(),
            cases(prefix="h", change=lambda i, attack, row: row.update(entities=["c-user1"])),
            id="shared-users",
        ),
        pytest.param(
            "time overlap",
            cases(),
            cases(prefix="h", change=lambda i, attack, row: row.update(observed_at=START.isoformat())),
            id="not-later",
        ),
    ],
)
def test_what_a_person_should_look_at(name: str, train: list[Case], holdout: list[Case]) -> None:
    """A warning, with some of the cases it is about, and no refusal."""
    report = check(train, holdout)
    assert name in found(report, Severity.WARNING)
    report.require()


def test_repeats_are_told_of_their_side() -> None:
    """Training drops them; a holdout that is named is counted as it is, each repeat as a case of its own."""
    own, held = cases(), cases(prefix="h")
    repeated = check([*own, own[0].model_copy(update={"id": "one"})], [*held, held[0].model_copy(update={"id": "two"})])
    told = {f.cases: f.message for f in repeated.findings if f.check == "duplicates"}
    assert [("one",), ("two",)] == list(told)
    assert "1 training cases repeat" in told[("one",)]
    assert "1 holdout cases repeat" in told[("two",)]


def test_the_report_is_json_and_text() -> None:
    """Errors come first; nothing of an alert is printed but field names and ids."""
    report = check([c for c in cases() if c.is_attack], cases(prefix="h"))
    assert DataReport.model_validate(json.loads(report.model_dump_json())) == report
    assert report.findings[0].severity is Severity.ERROR
    text = Console(width=160, record=True)
    with text.capture() as captured:
        text.print(report.rendered())
    assert "one class" in captured.get()
    assert "holdout" in captured.get()
