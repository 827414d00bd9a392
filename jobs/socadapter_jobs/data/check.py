"""Whether data are fit to train and judge on: duplicates, label leaks, class balance, overlap with the holdout.

A finding is an error where training on the data would teach or measure nothing true, a warning where a person should
look. Nothing is changed here: `split` drops and divides. Called by the prepare stage (which requires it) and by
`socadapter data check`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from pydantic import ConfigDict, Field
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from socadapter_api import digest
from socadapter_api.case import Case
from socadapter_api.errors import DataError, EmptyData, HoldoutOverlap, LabelLeak, OneClass, TooFewAlerts
from socadapter_api.model import Contract
from socadapter_jobs.data.leaks import FieldScore, score_alert_fields, score_evidence_fields, time_fields
from socadapter_jobs.data.split import content_key, dedupe
from socadapter_jobs.data.titles import ambiguous_titles

LEAK_ERROR = 0.97
"""A visible field that alone reaches this balanced accuracy makes the alert's evidence pointless."""

LEAK_WARNING = 0.85
MIN_CASES = 20
MIN_MINORITY = 0.1
_EXAMPLES = 5
_LABEL_WORDS = re.compile(r"\b(true_positive|false_positive|benign_true_positive|label_detail|IncidentGrade)\b")
_FATES = {
    "training": ("a run keeps one of each", "a run drops them"),
    "holdout": ("a run counts each of them", "a run counts them all, and no verdict is right on all"),
}
"""What a run does with repeats and with contradictions on either side."""


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Finding(Contract):
    """One thing that was found, and what to do about it."""

    model_config = ConfigDict(alias_generator=None)

    check: str
    severity: Severity
    message: str
    cases: tuple[str, ...] = Field(default=(), description="Some of the cases that it is about.")


class Side(Contract):
    """Counts of one set of cases."""

    model_config = ConfigDict(alias_generator=None)

    n: int
    labels: dict[str, int]
    contexts: int
    tools: tuple[str, ...]


class DataReport(Contract):
    """What `check` found."""

    model_config = ConfigDict(alias_generator=None)

    train: Side
    holdout: Side | None = None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(found for found in self.findings if found.severity is Severity.ERROR)

    def require(self) -> None:
        """Does nothing where there is no error.

        Raises:
            DataError: the first error, as its own class (`LabelLeak`, `OneClass`, `HoldoutOverlap`, ...).
        """
        for found in self.errors:
            raise _RAISED.get(found.check, DataError)(found.message)

    def rendered(self) -> RenderableType:
        """The report for a terminal."""
        counts = Table("set", "cases", "labels", "contexts", "tools", box=None, header_style="bold")
        for name, side in (("train", self.train), ("holdout", self.holdout)):
            if side is not None:
                labels = ", ".join(f"{label} {count}" for label, count in side.labels.items())
                counts.add_row(name, str(side.n), labels, str(side.contexts), ", ".join(side.tools))
        lines = [
            Text.assemble((f"{f.severity.value:8}", _COLOURS[f.severity]), f"{f.check}: {f.message}")
            for f in self.findings
        ]
        return Group(counts, Text(), *(lines or [Text("nothing found", "green")]))


_RAISED: Mapping[str, type[DataError]] = {
    "empty": EmptyData,
    "one class": OneClass,
    "too few": TooFewAlerts,
    "label leak": LabelLeak,
    "holdout overlap": HoldoutOverlap,
}
_COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}


def check(
    train: Sequence[Case],
    holdout: Sequence[Case] = (),
    *,
    leak_error: float = LEAK_ERROR,
    leak_warning: float = LEAK_WARNING,
    seed: int = 0,
    further: Sequence[Finding] = (),
) -> DataReport:
    """Looks at the training cases, and at the holdout beside them where there is one. `further` findings are added."""
    findings = [
        *further,
        *_balance("training", train),
        *(_balance("holdout", holdout) if holdout else ()),
        *_duplicates("training", train),
        *_duplicates("holdout", holdout),
        *_leaks(train, leak_error, leak_warning, seed),
        *_absolute_times(train),
        *_label_words([*train, *holdout]),
        *_titles(train),
        *(_overlap(train, holdout) if holdout else ()),
    ]
    order = list(Severity)
    return DataReport(
        train=_side(train),
        holdout=_side(holdout) if holdout else None,
        findings=tuple(sorted(findings, key=lambda found: order.index(found.severity))),
    )


def _side(cases: Sequence[Case]) -> Side:
    labels: dict[str, int] = {}
    for case in cases:
        labels[case.label.value] = labels.get(case.label.value, 0) + 1
    tools = sorted({tool for case in cases for tool in case.evidence})
    return Side(
        n=len(cases),
        labels=dict(sorted(labels.items())),
        contexts=len({case.context for case in cases}),
        tools=tuple(tools),
    )


def _balance(name: str, cases: Sequence[Case]) -> list[Finding]:
    attacks = sum(case.is_attack for case in cases)
    others = sum(case.decidable and not case.is_attack for case in cases)
    if not cases:
        return [_error("empty", f"there are no {name} cases")]
    if min(attacks, others) == 0:
        return [_error("one class", f"the {name} cases hold {attacks} attacks and {others} others; both are needed")]
    found = []
    if attacks + others < MIN_CASES:
        found.append(_warning("too few", f"{attacks + others} decidable {name} cases; figures from so few say little"))
    share = min(attacks, others) / (attacks + others)
    if share < MIN_MINORITY:
        rarer = "attacks" if attacks < others else "others"
        found.append(_warning("class balance", f"{rarer} are {share:.1%} of the {name} cases ({attacks}:{others})"))
    return found


def _duplicates(name: str, cases: Sequence[Case]) -> list[Finding]:
    seen = dedupe(cases)
    of_repeats, of_contradictions = _FATES[name]
    found = []
    if seen.repeats:
        message = f"{len(seen.repeats)} {name} cases repeat another's alert and evidence; {of_repeats}"
        found.append(_warning("duplicates", message, seen.repeats))
    if seen.contradictory:
        message = f"{len(seen.contradictory)} {name} cases have equal content and different labels; {of_contradictions}"
        found.append(_warning("contradictions", message, seen.contradictory))
    return found


def _leaks(cases: Sequence[Case], leak_error: float, leak_warning: float, seed: int) -> list[Finding]:
    visible = score_alert_fields(cases, seed)
    found = [
        _error("label leak", _leak_text(score, "visible field") + ". Hide it, or make it relative")
        if score.balanced_accuracy >= leak_error
        else _warning("label leak", _leak_text(score, "visible field"))
        for score in visible
        if score.balanced_accuracy >= leak_warning
    ]
    found += [
        _warning("telling evidence", _leak_text(score, "piece of evidence"))
        for score in score_evidence_fields(cases, seed)
        if score.balanced_accuracy >= leak_warning
    ]
    if visible and not found:
        found.append(_info("label leak", f"none; at most {_leak_text(visible[0], 'visible field')}"))
    return found


def _absolute_times(cases: Sequence[Case]) -> list[Finding]:
    fields = time_fields(cases)
    if not fields:
        return []
    some = ", ".join(list(fields)[:4])
    message = f"{len(fields)} fields hold absolute times ({some}): dates often betray the label; make them relative"
    return [_warning("absolute times", message)]


def _leak_text(score: FieldScore, kind: str) -> str:
    return f"the {kind} {score.field!r} alone predicts the label with balanced accuracy {score.balanced_accuracy:.2f}"


def _label_words(cases: Sequence[Case]) -> list[Finding]:
    naming = [
        case.id for case in cases if _LABEL_WORDS.search(digest.canonical_json([case.alert, case.evidence]).decode())
    ]
    if not naming:
        return []
    return [_warning("label words", f"{len(naming)} cases name a verdict in what the model may read", naming)]


def _titles(cases: Sequence[Case]) -> list[Finding]:
    unclear = ambiguous_titles(cases)
    if not unclear:
        return [_warning("titles", "no title occurs with both labels: titles may decide everything")]
    return [_info("titles", f"{len(unclear)} titles occur with both labels")]


def _overlap(train: Sequence[Case], holdout: Sequence[Case]) -> list[Finding]:
    keys: tuple[tuple[str, Callable[[Case], str]], ...] = (("id", lambda case: case.id), ("content", content_key))
    found = []
    for what, key in keys:
        known = {key(case) for case in train}
        shared = [case.id for case in holdout if key(case) in known]
        if shared:
            message = f"{len(shared)} holdout cases share their {what} with training: the holdout would be known"
            found.append(_error("holdout overlap", message, shared))
    return [*found, *_entity_overlap(train, holdout), *_time_overlap(train, holdout)]


def _entity_overlap(train: Sequence[Case], holdout: Sequence[Case]) -> list[Finding]:
    known = {entity for case in train for entity in case.entities}
    shared = [case.id for case in holdout if known.intersection(case.entities)]
    if not shared:
        return []
    names = sorted({entity for case in holdout for entity in case.entities} & known)
    message = f"{len(shared)} of {len(holdout)} holdout cases involve entities of training, such as {names[:3]}"
    return [_warning("entity overlap", message, shared)]


def _time_overlap(train: Sequence[Case], holdout: Sequence[Case]) -> list[Finding]:
    known = [case.observed_at for case in train if case.observed_at is not None]
    if not known:
        return []
    last = max(known)
    early = [case.id for case in holdout if case.observed_at is not None and case.observed_at <= last]
    if not early:
        return []
    return [
        _warning("time overlap", f"{len(early)} of {len(holdout)} holdout cases are not later than training", early)
    ]


def finding(name: str, severity: Severity, message: str, cases: Sequence[str] = ()) -> Finding:
    """One finding, with the first few of its cases."""
    return Finding(check=name, severity=severity, message=message, cases=tuple(cases[:_EXAMPLES]))


def _error(name: str, message: str, cases: Sequence[str] = ()) -> Finding:
    return finding(name, Severity.ERROR, message, cases)


def _warning(name: str, message: str, cases: Sequence[str] = ()) -> Finding:
    return finding(name, Severity.WARNING, message, cases)


def _info(name: str, message: str) -> Finding:
    return finding(name, Severity.INFO, message)
