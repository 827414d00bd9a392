"""Which figures the report shows, in what order, in what words, and which way is better.

Called by `view` and `model_card`, so that page and card never disagree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from socadapter_jobs.report import words
from socadapter_jobs.report.reading import finite, get, number, part


class Better(Enum):
    """Which way a figure should go."""

    HIGHER = 1
    LOWER = -1
    NEITHER = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of an arm's metrics."""

    keys: tuple[str, ...]
    title: str
    show: Callable[[Any], str]
    better: Better
    meaning: str

    def value(self, metrics: Mapping[str, Any]) -> float | None:
        """The figure in `metrics`, None where it was not measured."""
        return number(metrics, *self.keys)


def _decimal2(value: Any) -> str:
    return words.decimal(value, 2)


def _whole(value: Any) -> str:
    return words.decimal(value, 0)


FIGURES: tuple[Figure, ...] = (
    Figure(
        ("balanced_accuracy",),
        "Balanced accuracy",
        words.percent,
        Better.HIGHER,
        "Mean of the share of attacks recognised and of harmless alerts recognised; 50 % is guessing.",
    ),
    Figure(
        ("fnr",),
        "Missed attacks",
        words.percent,
        Better.LOWER,
        "Share of attacks whose verdict was anything else. An escalated or invalid answer counts as missed here.",
    ),
    Figure(("fpr",), "False alarms", words.percent, Better.LOWER, "Share of harmless alerts called an attack."),
    Figure(
        ("auc",),
        "AUC",
        words.decimal,
        Better.HIGHER,
        "How well the model's own probability ranks attacks above the rest; 0.5 is guessing.",
    ),
    Figure(
        ("utility",),
        "Utility per alert",
        words.signed,
        Better.HIGHER,
        "Cost-weighted worth after the escalation threshold; a missed attack costs most.",
    ),
    Figure(
        ("closing_precision",),
        "Right when it closes",
        words.percent,
        Better.HIGHER,
        "Of the alerts closed without a person, the share that was harmless.",
    ),
    Figure(("closed_rate",), "Closed automatically", words.percent, Better.NEITHER, "Share of alerts closed."),
    Figure(
        ("abstained",), "Escalated", words.percent, Better.NEITHER, "Share that the model itself handed to a person."
    ),
    Figure(("ece",), "Calibration error", words.decimal, Better.LOWER, "Mean gap between claimed and observed share."),
    Figure(("brier",), "Brier score", words.decimal, Better.LOWER, "Mean squared error of the probabilities."),
    Figure(
        ("grounded_rate",),
        "Grounded summaries",
        words.percent,
        Better.HIGHER,
        "Share of the summaries asked for that cite and quote only what a tool returned, and have a word of each.",
    ),
    Figure(("invalid_rate",), "Invalid answers", words.percent, Better.LOWER, "Share without a readable verdict."),
    Figure(("calls_per_case",), "Tool calls per alert", _decimal2, Better.NEITHER, "Mean number of tool calls."),
    Figure(("tokens_per_case",), "Tokens per alert", _whole, Better.NEITHER, "Mean number of generated tokens."),
    Figure(
        ("seconds_per_case",),
        "Seconds per alert",
        _decimal2,
        Better.NEITHER,
        "Mean time of an investigation, of many at once.",
    ),
    Figure(
        ("loops_per_100", "repeats_per_100"),
        "Repeated calls per 100",
        _decimal2,
        Better.LOWER,
        "Identical calls made again.",
    ),
    Figure(
        ("unknown_per_100", "unknown_tools_per_100"),
        "Unknown tools per 100",
        _decimal2,
        Better.LOWER,
        "Calls of tools that do not exist.",
    ),
    Figure(
        ("malformed_per_100",), "Malformed turns per 100", _decimal2, Better.LOWER, "Turns that could not be parsed."
    ),
)

HEADLINE = ("balanced_accuracy", "fnr", "auc", "utility", "closing_precision")
"""The figures that open the page."""

BY_KEY: Mapping[str, Figure] = {key: figure for figure in FIGURES for key in figure.keys}


def title(key: str) -> str:
    """The name of a figure for people; the key itself for one unknown here."""
    return BY_KEY[key].title if key in BY_KEY else key.replace("_", " ").capitalize()


def fnr_interval(metrics: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of the missed attacks, however it was written."""
    pair = get(metrics, "fnr_interval")
    low, high = (
        pair
        if isinstance(pair, list | tuple) and len(pair) == 2
        else (get(metrics, "fnr_low"), get(metrics, "fnr_high"))
    )
    ends = finite(low), finite(high)
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def attacks(metrics: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many attacks were missed, of how many; from the confusion matrix, so that it is a count."""
    found = part(metrics, "confusion").get("true_positive")
    if not isinstance(found, Mapping):
        return None
    counts = {verdict: int(finite(n) or 0) for verdict, n in found.items()}
    total = sum(counts.values())
    return (total - counts.get("true_positive", 0), total) if total else None
