"""Platt scaling, and the threshold under which an alert is escalated instead of closed."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.case import Verdict
from socadapter_api.manifest import Calibration
from socadapter_api.training import UtilityWeights
from socadapter_jobs.scoring import calibration
from socadapter_jobs.scoring.metrics import ScoredCase, summarize

TP, FP = Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE


def development(n: int = 200, seed: int = 0, bias: float = 0.0) -> list[ScoredCase]:
    """Judged cases whose confidence overlaps between the classes and is off by `bias`."""
    rng = random.Random(seed)
    cases = []
    for place in range(n):
        attack = place % 2 == 0
        confidence = min(max(rng.gauss(0.65 if attack else 0.35, 0.2) + bias, 0.001), 0.999)
        verdict = TP if confidence > 0.5 else FP
        cases.append(ScoredCase(str(place), TP if attack else FP, verdict, confidence))
    return cases


@pytest.mark.parametrize("attack_weight", [pytest.param(1.0, id="alike"), pytest.param(0.2, id="attacks-count-less")])
def test_platt_agrees_with_an_independent_solver(attack_weight: float) -> None:
    """Equal to scikit-learn's unpenalised logistic regression on the same smoothed targets and weights."""
    from sklearn.linear_model import LogisticRegression

    cases = development()
    p = np.array([case.confidence for case in cases], dtype=float)
    attack = np.array([case.is_attack for case in cases])
    weights = np.where(attack, attack_weight, 1.0)
    slope, intercept = calibration.platt(p, attack, weights)
    up, down = int(attack.sum()), int((~attack).sum())
    target = np.where(attack, (up + 1) / (up + 2), 1 / (down + 2))
    logit = np.log(p / (1 - p))
    x = np.concatenate([logit, logit])[:, None]
    y = np.concatenate([np.ones(len(p)), np.zeros(len(p))])
    peer = LogisticRegression(C=np.inf, max_iter=1000, tol=1e-10).fit(
        x, y, sample_weight=np.concatenate([weights * target, weights * (1 - target)])
    )
    assert (slope, intercept) == pytest.approx((peer.coef_[0][0], peer.intercept_[0]), abs=1e-3)


def test_calibration_improves_a_biased_model() -> None:
    """Fitted on one sample, the calibrated probabilities of another are closer to the truth."""
    fitted = calibration.fit(development(400, seed=1, bias=0.25), miss_budget=0.05)
    fresh = development(400, seed=2, bias=0.25)
    before, after = summarize(fresh), summarize(fresh, calibration=fitted)
    assert before.brier is not None
    assert after.brier is not None
    assert after.brier < before.brier - 0.01
    assert after.auc == before.auc


def test_probabilities_hold_for_the_alerts_as_they_come_in() -> None:
    """Fitted on as many attacks as others, they match a stream with one attack in eleven; unweighted they do not."""
    balanced = development(600, seed=3)
    extra = [case for seed in range(10, 20) for case in development(600, seed) if not case.is_attack]
    stream = [*development(600, seed=4), *extra[:2700]]
    share = sum(case.is_attack for case in stream) / len(stream)
    right = summarize(stream, calibration=calibration.fit(balanced, 0.05, share))
    wrong = summarize(stream, calibration=calibration.fit(balanced, 0.05))
    assert right.ece is not None
    assert wrong.ece is not None
    assert right.ece < 0.03 < 0.1 < wrong.ece


def test_the_threshold_does_not_depend_on_how_many_attacks_there_are() -> None:
    """It is set among attacks alone: the same cases are escalated, whatever the others weigh."""
    cases = development(200, seed=5)
    plain, weighed = calibration.fit(cases, 0.05), calibration.fit(cases, 0.05, 0.1)
    assert [calibration.apply(plain, case) for case in cases] == [calibration.apply(weighed, case) for case in cases]


@pytest.mark.parametrize("budget", [pytest.param(b, id=f"{b:.0%}") for b in (0.0, 0.02, 0.05, 0.1, 1.0)])
def test_the_threshold_keeps_the_miss_budget(budget: float) -> None:
    """On the cases that it was fitted on, automatic closing misses no more attacks than allowed."""
    cases = development()
    fitted = calibration.fit(cases, budget)
    attacks = [case for case in cases if case.is_attack]
    closed = [case for case in attacks if calibration.apply(fitted, case) is FP]
    assert len(closed) <= budget * len(attacks)


@given(st.integers(0, 10_000), st.floats(0, 0.5))
def test_the_threshold_is_the_highest_that_keeps_the_budget(seed: int, budget: float) -> None:
    """A higher one would miss more than allowed, so no alert is escalated for nothing."""
    cases = development(40, seed)
    fitted = calibration.fit(cases, budget)
    if fitted.escalate_at >= 1.0:
        return
    bolder = fitted.model_copy(update={"escalate_at": min(0.9999999, fitted.escalate_at + 1e-9)})
    missed = sum(case.is_attack and calibration.apply(bolder, case) is FP for case in cases)
    assert missed > budget * sum(case.is_attack for case in cases) - 1e-9


def test_a_model_within_the_budget_is_never_overruled() -> None:
    """No attack is closed: the threshold stays at 1.0."""
    cases = [ScoredCase("a", TP, TP, 0.9), ScoredCase("b", FP, FP, 0.2), ScoredCase("c", FP, TP, 0.8)]
    assert calibration.fit(cases, 0.0).escalate_at == 1.0


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([], id="no-case"),
        pytest.param([ScoredCase("a", TP, TP, 0.9)], id="one-class"),
        pytest.param([ScoredCase("a", TP, TP), ScoredCase("b", FP, FP)], id="no-confidence"),
        pytest.param([ScoredCase("a", TP, TP, 0.9, scorable=False), ScoredCase("b", FP, FP, 0.1)], id="outage"),
    ],
)
def test_where_nothing_can_be_fitted_nothing_is_closed(cases: list[ScoredCase]) -> None:
    """`fitted_on` 0 says that no calibration took place; its threshold, that a person looks at what would be closed."""
    fitted = calibration.fit(cases, 1.0)
    assert Calibration(escalate_at=0.0) == fitted
    closed = [ScoredCase(str(confidence), FP, FP, confidence) for confidence in (None, 0.0, 0.5)]
    assert {Verdict.ESCALATE} == {calibration.apply(fitted, case) for case in closed}
    summary = summarize(closed, calibration=fitted)
    assert (0.0, None, UtilityWeights().needless_escalation) == (
        summary.closed_rate,
        summary.closing_precision,
        summary.utility,
    )


@pytest.mark.parametrize(
    ("budget", "closed"),
    [pytest.param(0.0, 0, id="none-allowed"), pytest.param(0.1, 1, id="one"), pytest.param(0.3, 3, id="all-three")],
)
def test_an_attack_closed_without_a_confidence_is_a_miss(budget: float, closed: int) -> None:
    """It is closed at a threshold of 1.0 only, so that below it, even if barely, it is escalated."""
    cases = development()
    found = [case for case in cases if case.is_attack and case.verdict is TP][:7]
    others = [case for case in cases if not case.is_attack]
    missed = [ScoredCase("a", TP, FP, 0.1), ScoredCase("b", TP, FP), ScoredCase("c", TP, FP)]
    fitted = calibration.fit([*found, *others, *missed], budget)
    assert closed == sum(calibration.apply(fitted, case) is FP for case in missed)


def test_no_probability_is_beyond_the_threshold() -> None:
    """Not one that rounds to 1: below 1.0 is a threshold at which it is escalated."""
    certain = Calibration(slope=10.0, intercept=100.0)
    cases = [ScoredCase("a", TP, FP, 0.9), ScoredCase("b", TP, TP, 0.9)]
    assert 1.0 == certain.calibrated(0.9)
    threshold = calibration.escalation_threshold(cases, certain, 0.0)
    assert calibration.apply(certain.model_copy(update={"escalate_at": threshold}), cases[0]) is Verdict.ESCALATE


def test_a_confidence_that_points_the_wrong_way_is_not_turned_round() -> None:
    """Slope 0: the probability becomes the base rate, instead of a bet on the model being wrong."""
    cases = [ScoredCase(str(i), TP if i % 2 else FP, FP, 0.2 if i % 2 else 0.8) for i in range(40)]
    fitted = calibration.fit(cases, 0.05)
    assert fitted.slope == 0.0
    assert fitted.calibrated(0.2) == pytest.approx(fitted.calibrated(0.8)) == pytest.approx(0.5, abs=0.05)


def test_perfectly_separated_confidences_stay_finite() -> None:
    """Smoothed targets keep the fit from running away."""
    cases = [ScoredCase(str(i), TP if i % 2 else FP, TP if i % 2 else FP, 1.0 if i % 2 else 0.0) for i in range(40)]
    fitted = calibration.fit(cases, 0.05)
    assert 0 < fitted.slope < 1e3
    assert 0 < fitted.calibrated(0.0) < 0.1 < 0.9 < fitted.calibrated(1.0) < 1
