"""What the benchmark on real alerts amounts to: figures per organisation, their means, and what holds.

Pure: scored cases' figures in, numbers and a Markdown page out. Called by `real_alerts`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from socadapter_api.case import Verdict
from socadapter_jobs.scoring.metrics import Metrics

SFT, GRPO = "SFT", "SFT + GRPO"
REFERENCE = "logistic regression"
FLOOR, AMBIGUOUS_FLOOR = 0.88, 0.83


def figures(metrics: Metrics) -> dict[str, Any]:
    """What is reported of one arm on one organisation."""
    unclear = metrics.ambiguous
    return {
        "n": metrics.n,
        "attacks": metrics.attacks,
        "balanced_accuracy": metrics.balanced_accuracy,
        "fnr": metrics.fnr,
        "auc": metrics.auc,
        "n_ambiguous": unclear.n if unclear else 0,
        "balanced_accuracy_ambiguous": unclear.balanced_accuracy if unclear else None,
        "calls_per_case": metrics.calls_per_case,
        "invalid_rate": metrics.invalid_rate,
        "verdicts": {verdict.value: _count(metrics, verdict) for verdict in Verdict},
    }


def _count(metrics: Metrics, verdict: Verdict) -> int:
    return sum(row[verdict.value] for row in metrics.confusion.values())


def aggregate(rows: Sequence[Mapping[str, Any]], minutes: float) -> dict[str, Any]:
    """Means over the organisations, and what holds."""
    means = {
        arm: {
            name: _mean([row["arms"][arm][name] for row in rows])
            for name in ("balanced_accuracy", "balanced_accuracy_ambiguous", "fnr", "auc", "calls_per_case")
        }
        for arm in rows[0]["arms"]
    }
    own, reference = means[GRPO], means[REFERENCE]
    longest = max(row["minutes"] for row in rows)
    return {
        "organisations": list(rows),
        "means": means,
        "holds": [
            _claim(f"mean balanced accuracy at least {FLOOR}", own["balanced_accuracy"], FLOOR),
            _claim(
                f"on the ambiguous ones at least {AMBIGUOUS_FLOOR}", own["balanced_accuracy_ambiguous"], AMBIGUOUS_FLOOR
            ),
            {
                "claim": f"at most {minutes:g} minutes of training for each organisation",
                "holds": longest <= minutes,
                "measured": f"{longest:.1f}",
            },
        ],
        "to_the_logistic_regression": {
            name: _gap(own[name], reference[name]) for name in ("balanced_accuracy", "balanced_accuracy_ambiguous")
        },
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _gap(own: float | None, reference: float | None) -> float | None:
    return None if own is None or reference is None else own - reference


def _claim(text: str, value: float | None, floor: float) -> dict[str, Any]:
    return {"claim": text, "holds": value is not None and value >= floor, "measured": _number(value)}


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a page for people."""
    rows = result["organisations"]
    names = [row["organisation"] for row in rows]
    lines = [
        "| balanced accuracy (of them ambiguous) | " + " | ".join(names) + " | mean | FNR, mean |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for arm, mean in result["means"].items():
        cells = [_pair(row["arms"][arm]) for row in rows]
        lines.append(f"| {arm} | {' | '.join(cells)} | {_pair(mean)} | {_number(mean['fnr'])} |")
    lines += [
        "",
        "| organisation held out | judged (ambiguous) | learned from | minutes | GRPO |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        own, outcome = row["arms"][GRPO], row["training"][GRPO]["outcome"]
        lines.append(
            f"| {row['organisation']} | {own['n']} ({own['n_ambiguous']}) | {row['training'][SFT]['examples']} of "
            f"{row['training_cases']} cases, {row['training'][SFT]['epochs']:.1f} epochs | {row['minutes']:.1f} | "
            f"{outcome['status']} {outcome['reason']}, {outcome['steps']} steps |"
        )
    lines += ["", "| asked for | measured | holds |", "|---|---|---|"]
    lines += [f"| {c['claim']} | {c['measured']} | {'yes' if c['holds'] else 'no'} |" for c in result["holds"]]
    gap = result["to_the_logistic_regression"]
    lines += [
        "",
        f"To the logistic regression on the same split: {_signed(gap['balanced_accuracy'])}, on the ambiguous ones "
        f"{_signed(gap['balanced_accuracy_ambiguous'])}.",
    ]
    return "\n".join(lines) + "\n"


def _pair(found: Mapping[str, Any]) -> str:
    return f"{_number(found['balanced_accuracy'])} ({_number(found['balanced_accuracy_ambiguous'])})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
