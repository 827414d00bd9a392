"""What each section of the page shows, worked out from an evaluation. Pure; the page's template only lays it out.

Every part of an evaluation may be missing: its section is then empty and the template leaves it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from socadapter_jobs.report import figures, neighbours
from socadapter_jobs.report.figures import BY_KEY, FIGURES, HEADLINE, Better, Figure
from socadapter_jobs.report.reading import finite, number, part, rows, text
from socadapter_jobs.report.words import count, duration, percent, points

ARMS = {"base": "Base model", "sft": "After SFT", "champion": "Served now", "candidate": "This adapter"}
"""Arms of an evaluation in the order of the page, and their names for people."""

BASELINES = {
    "majority": "Always the commoner verdict",
    "title look-up": "Look-up by title",
    "logistic regression": "Logistic regression on alert and evidence",
}
"""Baselines of an evaluation as `scoring.baselines` calls them, cheapest first, and their names for people."""

VERDICTS = ("true_positive", "benign_true_positive", "false_positive", "escalate", "invalid")
_STAGES = {"prepare": "Prepare", "sft": "SFT", "grpo": "GRPO", "evaluate": "Evaluate", "publish": "Publish"}


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure beside its references."""

    title: str
    value: str
    note: str
    references: tuple[tuple[str, str], ...]
    trend: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Column:
    """One arm or baseline of the comparison table."""

    name: str
    kind: str
    n: float | None
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a confusion matrix."""

    n: int
    share: float
    kind: str


@dataclass(frozen=True, slots=True)
class Confusion:
    """Labels down, verdicts across."""

    arm: str
    kind: str
    verdicts: tuple[str, ...]
    labels: tuple[tuple[str, int, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True)
class ContextRow:
    """The adapter on one context's alerts."""

    context: str
    own: bool
    n: float | None
    cells: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One adapter, or the base, on the alerts of each context."""

    name: str
    own: bool
    cells: tuple[str, ...]


def arms(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arms that were measured, in the order of the page."""
    every = part(evaluation, "arms")
    return {key: dict(every[key]) for key in _ordered(every, ARMS)}


def _ordered(found: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    """The keys of those parts of `found` that are JSON objects: the known ones in their order, then the others."""
    others = sorted(key for key in found if key not in known)
    return [key for key in (*known, *others) if isinstance(found.get(key), Mapping)]


def arm_name(key: str) -> str:
    """An arm's, or a baseline's, name for people."""
    return ARMS.get(key) or BASELINES.get(key, key)


def metrics_of(arm: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's metrics; a bare dict of metrics, as baselines are written, is taken as it is."""
    return part(arm, "metrics") or dict(arm)


def headline(evaluation: Mapping[str, Any]) -> str:
    """The one sentence that a reader takes away: what was missed, of how many, before and after."""
    found = {key: figures.attacks(metrics_of(arm)) for key, arm in arms(evaluation).items()}
    candidate = found.get("candidate")
    if candidate is None:
        return ""
    metrics = metrics_of(arms(evaluation)["candidate"])
    interval = figures.fnr_interval(metrics)
    between = f" (95 % interval {percent(interval[0])} to {percent(interval[1])})" if interval else ""
    said = f"This adapter missed {candidate[0]} of {candidate[1]} attacks{between}"
    others = [
        f"{name} missed {missed[0]} of {missed[1]}"
        for key, name in (("base", "the untrained base"), ("champion", "the version served now"))
        if (missed := found.get(key)) is not None
    ]
    return f"{'; '.join([said, *others])}. None of these alerts was seen in training."


def tiles(evaluation: Mapping[str, Any]) -> list[Tile]:
    """The headline figures of the candidate beside base and champion."""
    measured = {key: metrics_of(arm) for key, arm in arms(evaluation).items()}
    if "candidate" not in measured:
        return []
    return [_tile(BY_KEY[key], measured) for key in HEADLINE if BY_KEY[key].value(measured["candidate"]) is not None]


def _tile(figure: Figure, measured: Mapping[str, Mapping[str, Any]]) -> Tile:
    value = figure.value(measured["candidate"])
    references = [(key, figure.value(measured[key])) for key in ("base", "champion") if key in measured]
    known = [(arm_name(key), reference) for key, reference in references if reference is not None]
    note = ""
    if figure.keys[0] == "fnr" and (missed := figures.attacks(measured["candidate"])) is not None:
        note = f"{missed[0]} of {missed[1]} attacks"
    trend = ""
    if value is not None and known and figure.better is not Better.NEITHER:
        change = (value - known[0][1]) * figure.better.value
        trend = "better" if change > 0 else "worse" if change < 0 else ""
    shown = tuple((name, figure.show(reference)) for name, reference in known)
    return Tile(figure.title, figure.show(value), note, shown, trend, figure.meaning)


def cell(figure: Figure, arm: Mapping[str, Any]) -> str:
    """An arm's figure in words. The grounded rate is of few, and says how many of them have a summary at all."""
    words = figure.show(figure.value(metrics_of(arm)))
    asked, complete = (number(part(arm, "summaries"), key) for key in ("n", "complete"))
    if figure is not BY_KEY["grounded_rate"] or not asked or complete is None:
        return words
    return f"{words} ({count(complete)} of {count(asked)} summaries complete)"


def comparison(evaluation: Mapping[str, Any]) -> tuple[list[Figure], list[Column]]:
    """Every arm and baseline, and the figures that at least one of them has."""
    named = [(arm_name(key), key, arm) for key, arm in arms(evaluation).items()]
    named += [(name, "baseline", metrics) for name, metrics in baselines(evaluation)]
    found = figures_of([arm for _, _, arm in named])
    columns = [
        Column(name, kind, number(metrics_of(arm), "n"), tuple(cell(figure, arm) for figure in found))
        for name, kind, arm in named
    ]
    return found, columns


def figures_of(compared: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The figures that at least one of the arms has."""
    return [figure for figure in FIGURES if any(figure.value(metrics_of(arm)) is not None for arm in compared)]


def baselines(evaluation: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The cheap baselines by their names for people, cheapest first."""
    measured = part(evaluation, "baselines")
    return [(BASELINES.get(key, key), metrics_of(measured[key])) for key in _ordered(measured, BASELINES)]


def confusions(evaluation: Mapping[str, Any]) -> list[Confusion]:
    """The matrices of base and candidate, before and after."""
    measured = arms(evaluation)
    every = [(key, part(metrics_of(measured[key]), "confusion")) for key in ("base", "candidate") if key in measured]
    return [_confusion(key, counts) for key, counts in every if counts]


def _confusion(key: str, counts: Mapping[str, Any]) -> Confusion:
    given = {label: part(counts, label) for label in VERDICTS if part(counts, label)}
    verdicts = tuple(
        verdict for verdict in VERDICTS if verdict != "invalid" or any(row.get("invalid") for row in given.values())
    )
    labels = []
    for label, row in given.items():
        found = [int(finite(row.get(verdict)) or 0) for verdict in verdicts]
        total = sum(found)
        cells = tuple(
            Cell(n, n / total if total else 0.0, _cell_kind(label, verdict))
            for verdict, n in zip(verdicts, found, strict=True)
        )
        labels.append((label, total, cells))
    return Confusion(arm_name(key), key, verdicts, tuple(labels))


def _cell_kind(label: str, verdict: str) -> str:
    if label == verdict:
        return "right"
    if label == "true_positive" and verdict in ("benign_true_positive", "false_positive"):
        return "missed"
    harmless = {"benign_true_positive", "false_positive"}
    return "near" if {label, verdict} == harmless else "wrong"


def contexts(evaluation: Mapping[str, Any]) -> tuple[list[str], list[ContextRow]]:
    """The adapter on every context's alerts: it should be good on its own, and is not meant for the others."""
    own = arms(evaluation).get("candidate")
    every = [(text(evaluation, "context") or "own", True, own)] if own else []
    every += [
        (key, False, dict(arm))
        for key, arm in sorted(part(evaluation, "other_contexts").items())
        if isinstance(arm, Mapping)
    ]
    compared = [BY_KEY[key] for key in ("balanced_accuracy", "fnr", "auc", "utility", "grounded_rate")]
    found = []
    for name, is_own, arm in every:
        metrics = metrics_of(arm)
        cells = tuple((cell(figure, arm), figure.value(metrics)) for figure in compared)
        found.append(ContextRow(name, is_own, number(metrics, "n"), cells))
    return ([figure.title for figure in compared], found) if len(found) > 1 else ([], [])


def matrix(evaluation: Mapping[str, Any]) -> tuple[list[str], list[MatrixRow]]:
    """Every adapter on every context: this run's and those that serve the others. Empty where no other is known."""
    own, others = text(evaluation, "context"), part(evaluation, "other_adapters")
    if not own or not others:
        return [], []
    mine = neighbours.of_evaluation(evaluation)
    known = {own: mine} | {name: part(others, name) for name in sorted(others)}
    columns = [own, *sorted({*part(mine, "on"), *others} - {own})]
    found = [MatrixRow(ARMS["base"], False, tuple(_share(part(known.get(name), "base")) for name in columns))]
    for name, held in known.items():
        cells = tuple(_share(part(part(held, "on"), context)) for context in columns)
        found.append(MatrixRow(f"Adapter of {name}", name == own, cells))
    return columns, found


def _share(metrics: Mapping[str, Any]) -> str:
    """Balanced accuracy, missed attacks, and of how many alerts; a dash where it was not measured."""
    accuracy, missed, n = (number(metrics, key) for key in ("balanced_accuracy", "fnr", "n"))
    return "-" if accuracy is None else f"{percent(accuracy)} / {percent(missed)} of {count(n)}"


def slices(evaluation: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, float | None, float | None, list[str]]]]:
    """Per group of alerts: count, attacks, then base and candidate side by side, worst for the candidate first.

    A figure that no group has, such as balanced accuracy where each is of one class, is left out.
    """
    measured = {key: part(metrics_of(arm), "slices") for key, arm in arms(evaluation).items()}
    candidate, base = measured.get("candidate", {}), measured.get("base", {})
    every = [part(side, group) for side in (base, candidate) for group in side]
    figures_ = (BY_KEY[key] for key in ("balanced_accuracy", "fnr", "utility"))
    shown = [figure for figure in figures_ if any(figure.value(metrics) is not None for metrics in every)]
    found = []
    for group in candidate or base:
        sides = [part(side, group) for side in (base, candidate)]
        cells = [figure.show(figure.value(side)) for figure in shown for side in sides]
        main = sides[1] or sides[0]
        worth = number(main, "balanced_accuracy", "utility")
        found.append(
            ((2.0 if worth is None else worth, group), (group, number(main, "n"), number(main, "attacks"), cells))
        )
    return [figure.title for figure in shown], [row for _, row in sorted(found, key=lambda entry: entry[0])]


def reward_parts(evaluation: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Mean of each part of the reward over the first and the last tenth of the GRPO steps."""
    steps = rows(part(evaluation, "learning"), "grpo")
    width = max(1, len(steps) // 10)
    found = []
    for key in sorted({key for row in steps for key in row if key != "step"}):
        first = [value for row in steps[:width] if (value := number(row, key)) is not None]
        last = [value for row in steps[-width:] if (value := number(row, key)) is not None]
        if first and last:
            found.append((key.replace("_", " "), sum(first) / len(first), sum(last) / len(last)))
    return found


def stages(evaluation: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Each stage's name, time in words, and share of the whole."""
    raw = part(evaluation, "seconds")
    order = [*_STAGES, *sorted(raw.keys() - _STAGES.keys())]
    seconds = {key: value for key in order if (value := finite(raw.get(key))) is not None}
    total = sum(seconds.values()) or 1.0
    return [(_STAGES.get(key, key), duration(value), value / total) for key, value in seconds.items()]


def difference_rows(evaluation: Mapping[str, Any]) -> dict[str, list[tuple[str, Figure | None, float, float, float]]]:
    """Each paired comparison: figure, difference, and the ends of its 95 % interval."""
    found = {}
    for pair, measured in sorted(part(evaluation, "paired").items()):
        complete = []
        of_figures = measured if isinstance(measured, Mapping) else {}
        for key in [*(key for key in BY_KEY if key in of_figures), *sorted(of_figures.keys() - BY_KEY.keys())]:
            raw = of_figures[key]
            value, low, high = number(raw, "difference", "value"), number(raw, "low"), number(raw, "high")
            if value is not None and low is not None and high is not None:
                complete.append((figures.title(key), BY_KEY.get(key), value, low, high))
        if complete:
            first, _, second = pair.partition("-")
            found[f"{arm_name(first)} minus {arm_name(second).lower()}"] = complete
    return found


def difference_text(figure: Figure | None, value: float) -> str:
    """A difference in the unit of its figure."""
    return points(value) if figure is not None and figure.show is percent else f"{value:+.3f}".replace("-", "−")
