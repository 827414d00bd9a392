"""Example investigations side by side: what each arm was shown, asked for, read and concluded.

Everything here was written by an attacker, a tool or a model. Nothing is interpreted; the template escapes it and
`words.visible` spells out what could deceive a reader. Called by `page`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from socadapter_api.case import parse_label
from socadapter_api.errors import UnknownLabel
from socadapter_jobs.report.reading import get, number, part, rows, text
from socadapter_jobs.report.view import ARMS, arm_name


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call of an example."""

    tool: str
    arguments: dict[str, Any]
    evidence_id: str
    outcome: str
    result: str
    cited: bool


@dataclass(frozen=True, slots=True)
class Investigation:
    """One arm's investigation of an example alert."""

    arm: str
    kind: str
    verdict: str
    right: bool | None
    confidence: float | None
    summary: str
    citations: tuple[str, ...]
    calls: tuple[Call, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One alert, investigated side by side."""

    case_id: str
    label: str
    fields: tuple[tuple[str, Any], ...]
    investigations: tuple[Investigation, ...]
    verdicts: str


def examples(evaluation: Mapping[str, Any]) -> list[Example]:
    """The alerts whose investigations are shown in full."""
    return [_example(row) for row in rows(evaluation, "examples")]


def _example(row: Mapping[str, Any]) -> Example:
    label = _label(text(row, "label"))
    found = part(row, "arms")
    keys = [*(key for key in ARMS if key in found), *(key for key in found if key not in ARMS)]
    investigations = tuple(_investigation(key, part(found, key), label) for key in keys)
    verdicts = ", ".join(f"{entry.arm.lower()}: {entry.verdict or 'none'}" for entry in investigations)
    return Example(text(row, "case_id"), label, tuple(part(row, "alert").items()), investigations, verdicts)


def _investigation(key: str, trajectory: Mapping[str, Any], label: str) -> Investigation:
    cited = tuple(str(citation) for citation in get(trajectory, "citations") or ())
    calls = tuple(
        Call(
            text(call, "tool"),
            part(call, "args"),
            text(call, "evidence_id"),
            text(call, "outcome"),
            text(call, "result"),
            text(call, "evidence_id") in cited,
        )
        for call in rows(trajectory, "calls")
    )
    verdict = text(trajectory, "verdict")
    counted = (
        ("malformed", "malformed turns"),
        ("unknown_tools", "unknown tools"),
        ("repeats", "repeated calls"),
        ("ungrounded", "claims without evidence"),
    )
    faults = [f"{name}: {int(n)}" for name_key, name in counted if (n := number(trajectory, name_key))]
    return Investigation(
        arm=arm_name(key),
        kind=key,
        verdict=verdict,
        right=verdict == label if label else None,
        confidence=number(trajectory, "confidence"),
        summary=text(trajectory, "summary"),
        citations=cited,
        calls=calls,
        faults=tuple(faults),
    )


def _label(written: str) -> str:
    """The verdict that a label names; the label itself where it names none."""
    try:
        return parse_label(written).value
    except UnknownLabel:
        return written
