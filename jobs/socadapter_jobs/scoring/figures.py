"""Every figure as a function of case weights, so that a point value and a bootstrap resample are the same code.

Weights are a matrix (resamples x cases); all ones give the figure itself. The definitions of a missed attack, a false
alarm and utility are written here and nowhere else. Leaves the choice of cases to `metrics` and the resampling to
`bootstrap`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from socadapter_api.case import Verdict
from socadapter_api.manifest import Calibration
from socadapter_api.training import Metric, UtilityWeights
from socadapter_jobs.scoring.scored_case import ScoredCase

Floats = npt.NDArray[np.float64]

ECE_BINS = 10
UNDECIDED = 0.5
"""The probability of an attack that a case without a confidence stands for."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Decidable, scorable cases as float columns of equal length; flags are 0 or 1, missing confidences are NaN."""

    attack: Floats
    called: Floats
    """The model's own verdict is true positive."""
    closed: Floats
    """The model's own verdict is benign or false positive."""
    escalated: Floats
    invalid: Floats
    utility: Floats
    closed_after: Floats
    """Closed after the escalation threshold."""
    confidence: Floats
    calibrated: Floats
    checked: Floats
    """Grounding was looked at."""
    grounded: Floats
    calls: Floats
    tokens: Floats
    malformed: Floats
    unknown_tools: Floats
    repeats: Floats
    seconds: Floats


def columns(cases: Sequence[ScoredCase], calibration: Calibration, weights: UtilityWeights) -> Columns:
    """The columns of `cases`, in their order. Callers pass only decidable, scorable cases."""
    final = [calibration.decide(case.verdict, case.confidence) for case in cases]

    def column(values: Sequence[float]) -> Floats:
        return np.asarray(values, dtype=np.float64)

    confidence = column([np.nan if case.confidence is None else case.confidence for case in cases])
    return Columns(
        attack=column([case.is_attack for case in cases]),
        called=column([case.verdict is Verdict.TRUE_POSITIVE for case in cases]),
        closed=column([case.verdict.closes for case in cases]),
        escalated=column([case.verdict is Verdict.ESCALATE for case in cases]),
        invalid=column([case.verdict is Verdict.INVALID for case in cases]),
        utility=column(
            [utility_of(case.is_attack, verdict, weights) for case, verdict in zip(cases, final, strict=True)]
        ),
        closed_after=column([verdict.closes for verdict in final]),
        confidence=confidence,
        calibrated=column([np.nan if np.isnan(p) else calibration.calibrated(float(p)) for p in confidence]),
        checked=column([case.ungrounded is not None for case in cases]),
        grounded=column([case.ungrounded == 0 for case in cases]),
        calls=column([case.calls for case in cases]),
        tokens=column([case.tokens for case in cases]),
        malformed=column([case.malformed for case in cases]),
        unknown_tools=column([case.unknown_tools for case in cases]),
        repeats=column([case.repeats for case in cases]),
        seconds=column([case.seconds for case in cases]),
    )


def prior_weights(cases: Sequence[ScoredCase], attack_share: float | None) -> Floats:
    """Weights under which attacks are `attack_share` of `cases`, their sum unchanged.

    All ones where it is None, or where one class is missing or would get no weight.
    """
    attack = np.asarray([case.is_attack for case in cases], dtype=bool)
    own = float(attack.mean()) if len(attack) else 0.0
    if attack_share is None or not 0.0 < own < 1.0 or not 0.0 < attack_share < 1.0:
        return np.ones(len(attack))
    return np.where(attack, attack_share / own, (1.0 - attack_share) / (1.0 - own))


def utility_of(attack: bool, verdict: Verdict, weights: UtilityWeights) -> float:
    """What one decidable case is worth, given the verdict after the escalation threshold."""
    if verdict is Verdict.INVALID:
        return weights.invalid
    if verdict is Verdict.ESCALATE:
        return weights.needless_escalation
    if attack:
        return weights.right if verdict is Verdict.TRUE_POSITIVE else weights.missed_attack
    return weights.false_alarm if verdict is Verdict.TRUE_POSITIVE else weights.right


def ratio(weight: Floats, part: Floats, whole: Floats) -> Floats:
    """Weighted share of `whole` that is `part`; NaN where `whole` weighs nothing."""
    below = weight @ whole
    share = np.full(below.shape, np.nan)
    np.divide(weight @ (part * whole), below, out=share, where=below > 0)
    return share


def _mean(weight: Floats, values: Floats) -> Floats:
    return ratio(weight, values, np.ones_like(values))


def true_positive_rate(c: Columns, weight: Floats) -> Floats:
    """Share of attacks that were called attacks."""
    return ratio(weight, c.called, c.attack)


def true_negative_rate(c: Columns, weight: Floats) -> Floats:
    """Share of the rest that was closed; an escalated or invalid one counts as wrong."""
    return ratio(weight, c.closed, 1.0 - c.attack)


def false_positive_rate(c: Columns, weight: Floats) -> Floats:
    """Share of the rest that was called an attack."""
    return ratio(weight, c.called, 1.0 - c.attack)


def balanced_accuracy(c: Columns, weight: Floats) -> Floats:
    return (true_positive_rate(c, weight) + true_negative_rate(c, weight)) / 2.0


def false_negative_rate(c: Columns, weight: Floats) -> Floats:
    """Share of attacks not called attacks, whatever was said instead."""
    return 1.0 - true_positive_rate(c, weight)


def auc(c: Columns, weight: Floats) -> Floats:
    """Area under the ROC curve of the model's confidence, ties counting half.

    A case without a confidence (an answer that could not be parsed) stands at `UNDECIDED`. NaN where no case has one.
    """
    if np.isnan(c.confidence).all():
        return np.full(weight.shape[0], np.nan)
    scores = np.nan_to_num(c.confidence, nan=UNDECIDED)
    levels, at = np.unique(scores, return_inverse=True)
    positives = _by_level(weight * c.attack, at, len(levels))
    negatives = _by_level(weight * (1.0 - c.attack), at, len(levels))
    below = np.cumsum(negatives, axis=1) - negatives
    wins = (positives * (below + negatives / 2.0)).sum(axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    area = np.full(pairs.shape, np.nan)
    np.divide(wins, pairs, out=area, where=pairs > 0)
    return area


def _by_level(weight: Floats, at: npt.NDArray[np.intp], levels: int) -> Floats:
    """Column sums of `weight` grouped by `at`."""
    summed = np.zeros((levels, weight.shape[0]))
    np.add.at(summed, at, weight.T)
    return summed.T


def utility(c: Columns, weight: Floats) -> Floats:
    return _mean(weight, c.utility)


def grounded_rate(c: Columns, weight: Floats) -> Floats:
    return ratio(weight, c.grounded, c.checked)


def invalid_rate(c: Columns, weight: Floats) -> Floats:
    return _mean(weight, c.invalid)


def abstained(c: Columns, weight: Floats) -> Floats:
    return _mean(weight, c.escalated)


def closing_precision(c: Columns, weight: Floats) -> Floats:
    """Of what is closed automatically after the threshold, the share that is no attack."""
    return ratio(weight, 1.0 - c.attack, c.closed_after)


def closed_rate(c: Columns, weight: Floats) -> Floats:
    """Share of all cases that is closed automatically after the threshold."""
    return _mean(weight, c.closed_after)


def brier(c: Columns, weight: Floats) -> Floats:
    """Mean squared error of the calibrated probability, over the cases that have one."""
    known = (~np.isnan(c.calibrated)).astype(np.float64)
    return ratio(weight, (np.nan_to_num(c.calibrated) - c.attack) ** 2, known)


def ece(c: Columns, weight: Floats) -> Floats:
    """Expected calibration error over ten equal bins of the calibrated probability."""
    known = (~np.isnan(c.calibrated)).astype(np.float64)
    p = np.nan_to_num(c.calibrated)
    bins = np.minimum((p * ECE_BINS).astype(np.intp), ECE_BINS - 1)
    gaps = np.abs(_by_level(weight * known * (p - c.attack), bins, ECE_BINS)).sum(axis=1)
    total = weight @ known
    error = np.full(total.shape, np.nan)
    np.divide(gaps, total, out=error, where=total > 0)
    return error


def _per_100(name: str) -> "Figure":
    def figure(c: Columns, weight: Floats) -> Floats:
        values: Floats = getattr(c, name)
        return 100.0 * _mean(weight, values)

    return figure


def _per_case(name: str) -> "Figure":
    def figure(c: Columns, weight: Floats) -> Floats:
        values: Floats = getattr(c, name)
        return _mean(weight, values)

    return figure


Figure = Callable[[Columns, Floats], Floats]

FIGURES: dict[str, Figure] = {
    "balanced_accuracy": balanced_accuracy,
    "fnr": false_negative_rate,
    "fpr": false_positive_rate,
    "tnr": true_negative_rate,
    "auc": auc,
    "utility": utility,
    "abstained": abstained,
    "closing_precision": closing_precision,
    "closed_rate": closed_rate,
    "ece": ece,
    "brier": brier,
    "grounded_rate": grounded_rate,
    "invalid_rate": invalid_rate,
    "malformed_per_100": _per_100("malformed"),
    "unknown_tools_per_100": _per_100("unknown_tools"),
    "repeats_per_100": _per_100("repeats"),
    "calls_per_case": _per_case("calls"),
    "tokens_per_case": _per_case("tokens"),
    "seconds_per_case": _per_case("seconds"),
}
"""Every figure by the name that it has in `Metrics`."""

NAMES: dict[Metric, str] = {
    Metric.BALANCED_ACCURACY: "balanced_accuracy",
    Metric.FALSE_NEGATIVE_RATE: "fnr",
    Metric.AUC: "auc",
    Metric.UTILITY: "utility",
    Metric.GROUNDED_RATE: "grounded_rate",
    Metric.INVALID_RATE: "invalid_rate",
}
"""A gate's metric to the figure's name."""

SHARES: dict[str, Callable[[Columns], Floats]] = {
    "fnr": lambda c: c.attack,
    "grounded_rate": lambda c: c.checked,
    "invalid_rate": lambda c: np.ones_like(c.attack),
}
"""Those of the gates' figures that are a plain share, and the cases that they are a share of."""

LOWER_IS_BETTER = frozenset(
    {
        "fnr",
        "fpr",
        "ece",
        "brier",
        "invalid_rate",
        "malformed_per_100",
        "unknown_tools_per_100",
        "repeats_per_100",
        "calls_per_case",
        "tokens_per_case",
        "seconds_per_case",
    }
)
