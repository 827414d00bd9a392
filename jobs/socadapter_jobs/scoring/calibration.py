"""Platt scaling on the development split, and the escalation threshold for a context's miss budget.

The result goes into the manifest; `Calibration.decide` applies it, here and in serving alike. Never fitted on the
holdout. Called by the evaluate stage; pure.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from socadapter_api.case import Verdict
from socadapter_api.manifest import CONFIDENCE_EPSILON, Calibration
from socadapter_jobs.scoring.figures import prior_weights
from socadapter_jobs.scoring.scored_case import ScoredCase

_MAX_NEWTON_STEPS = 100
_RIDGE = 1e-6
_CONVERGED = 1e-10
_BELOW_ONE = math.nextafter(1.0, 0.0)


def fit(cases: Iterable[ScoredCase], miss_budget: float, attack_share: float | None = None) -> Calibration:
    """The calibration of the model that judged the development split `cases`.

    `miss_budget` is the share of attacks that automatic closing may miss. `attack_share` is the share of attacks among
    decidable alerts as they come in, to which the probabilities are fitted where `cases` hold more or fewer of them;
    None: the share in `cases`. Undecidable and unscorable cases teach nothing, and of those without a confidence only
    the threshold learns. With one class only there is nothing to fit, and nothing speaks for closing an alert: the
    identity, escalating whatever would be closed, with `fitted_on` 0.
    """
    judged = [case for case in cases if case.scorable and case.decidable]
    used = [case for case in judged if case.confidence is not None]
    attacks = sum(case.is_attack for case in used)
    if attacks in (0, len(used)):
        return Calibration(escalate_at=0.0)
    confidences = np.array([case.confidence for case in used], dtype=np.float64)
    attack = np.array([case.is_attack for case in used])
    slope, intercept = platt(confidences, attack, prior_weights(used, attack_share))
    fitted = Calibration(slope=slope, intercept=intercept, fitted_on=len(used))
    return fitted.model_copy(update={"escalate_at": escalation_threshold(judged, fitted, miss_budget)})


def apply(calibration: Calibration, case: ScoredCase) -> Verdict:
    """The verdict after the escalation threshold."""
    return calibration.decide(case.verdict, case.confidence)


def platt(
    confidences: npt.NDArray[np.float64], attack: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Slope and intercept on the logit that maximise the likelihood of smoothed targets (Platt 1999, section 2.2).

    `weights` says how much each case counts.

    Newton's method with step halving (Lin, Lin and Weng 2007). A model whose confidence points the wrong way gets
    slope 0: its probability is then the base rate, and is not turned round.
    """
    p = np.clip(confidences, CONFIDENCE_EPSILON, 1.0 - CONFIDENCE_EPSILON)
    logits = np.log(p / (1.0 - p))
    positives = int(attack.sum())
    negatives = len(attack) - positives
    targets = np.where(attack, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    base_rate = float(np.average(targets, weights=weights))
    start = np.array([0.0, math.log(base_rate / (1.0 - base_rate))])
    slope, intercept = _newton(np.column_stack([logits, np.ones_like(logits)]), targets, weights, start)
    return (slope, intercept) if slope > 0.0 else (0.0, float(start[1]))


def _newton(
    features: npt.NDArray[np.float64],
    targets: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    start: npt.NDArray[np.float64],
) -> tuple[float, float]:
    at, loss = start, _loss(features, targets, weights, start)
    for _ in range(_MAX_NEWTON_STEPS):
        q = 1.0 / (1.0 + np.exp(-np.clip(features @ at, -500, 500)))
        gradient = features.T @ (weights * (q - targets))
        curvature = (features.T * (weights * q * (1.0 - q))) @ features + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        scale = 1.0
        while scale > 1e-10 and _loss(features, targets, weights, at - scale * step) > loss:
            scale /= 2.0
        at = at - scale * step
        before, loss = loss, _loss(features, targets, weights, at)
        if before - loss < _CONVERGED:
            break
    return float(at[0]), float(at[1])


def _loss(
    features: npt.NDArray[np.float64],
    targets: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    at: npt.NDArray[np.float64],
) -> float:
    z = features @ at
    return float((weights * (np.logaddexp(0.0, z) - targets * z)).sum())


def escalation_threshold(cases: Sequence[ScoredCase], calibration: Calibration, miss_budget: float) -> float:
    """The highest threshold under which automatic closing misses at most `miss_budget` of the attacks in `cases`.

    1.0 where the model's own closing already stays within the budget. Attacks that are closed without a confidence, or
    with one that is calibrated to 1, stay closed at 1.0 and at nothing below it.
    """
    attacks = [case for case in cases if case.is_attack]
    closed = sorted(
        min(1.0 if case.confidence is None else calibration.calibrated(case.confidence), _BELOW_ONE)
        for case in attacks
        if case.verdict.closes
    )
    allowed = math.floor(miss_budget * len(attacks) + 1e-9)
    return 1.0 if len(closed) <= allowed else closed[allowed]
