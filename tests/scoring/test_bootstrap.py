"""Paired differences between two arms and how sure they are."""

import random

import pytest

from socadapter_api.case import Verdict
from socadapter_api.errors import EmptyData, MalformedRow
from socadapter_jobs.scoring.bootstrap import Arm, compare, paired_difference
from socadapter_jobs.scoring.figures import FIGURES
from socadapter_jobs.scoring.metrics import ScoredCase, summarize

TP, FP = Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE


def arm(accuracy: float, n: int = 120, seed: int = 0) -> Arm:
    """Cases "0".."n-1", half attacks, each judged rightly with chance `accuracy`."""
    rng = random.Random(seed)
    cases = []
    for place in range(n):
        label = TP if place % 2 else FP
        right = rng.random() < accuracy
        verdict = label if right else (FP if label is TP else TP)
        cases.append(ScoredCase(str(place), label, verdict, 0.8 if verdict is TP else 0.2, calls=2, ungrounded=0))
    return Arm(tuple(cases))


def test_an_arm_against_itself_differs_by_nothing() -> None:
    """Pairing removes all noise that both arms share."""
    for found in compare(arm(0.8), arm(0.8), list(FIGURES), samples=200).values():
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0), found.figure


def test_a_clear_gain_is_told_from_noise() -> None:
    """The interval of a real difference excludes 0, that of a chance one does not."""
    gain = paired_difference(arm(0.95, seed=1), arm(0.7, seed=2), "balanced_accuracy")
    assert gain.low is not None
    assert gain.low > 0
    chance = paired_difference(arm(0.8, seed=3), arm(0.8, seed=4), "balanced_accuracy")
    assert chance.low is not None
    assert chance.high is not None
    assert chance.low < 0 < chance.high


def test_the_point_values_are_those_of_the_metrics() -> None:
    """One code path: the difference is between the figures that the report prints."""
    a, b = arm(0.9, seed=1), arm(0.6, seed=2)
    found = paired_difference(a, b, "utility", samples=50)
    assert found.first == summarize(a.cases).utility
    assert found.second == summarize(b.cases).utility


def test_a_seed_gives_one_result() -> None:
    """Two runs of the same comparison agree to the last bit; another seed does not."""
    a, b = arm(0.9, seed=1), arm(0.7, seed=2)
    once, again = (paired_difference(a, b, "utility", samples=99, seed=5) for _ in range(2))
    assert once == again
    assert paired_difference(a, b, "utility", samples=99, seed=6) != once


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Over many samples of a known difference, about 95 % of the intervals hold it."""
    inside = 0
    for seed in range(120):
        found = paired_difference(arm(0.85, 200, seed), arm(0.75, 200, 10_000 + seed), "balanced_accuracy", samples=400)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0.10 <= found.high
    assert 0.88 <= inside / 120 <= 1.0


def test_seeds_are_pooled_without_pretending_to_more_cases() -> None:
    """The same outcome from three training seeds is no more certain than from one: a case is drawn once for all."""
    a, b = arm(0.9, seed=1), arm(0.75, seed=2)
    one = paired_difference(a, b, "balanced_accuracy")
    three = paired_difference([a, a, a], [b, b, b], "balanced_accuracy")
    assert three.n == 3 * one.n
    assert three.value == pytest.approx(one.value)
    assert three.low == pytest.approx(one.low)
    assert three.high == pytest.approx(one.high)


def test_independent_seeds_narrow_the_interval() -> None:
    """Different holdouts per seed do add certainty."""

    def renamed(which: Arm, prefix: str) -> Arm:
        return Arm(tuple(ScoredCase(f"{prefix}{c.id}", c.label, c.verdict, c.confidence) for c in which.cases))

    firsts = [renamed(arm(0.9, seed=s), f"{s}-") for s in range(4)]
    seconds = [renamed(arm(0.7, seed=9 + s), f"{s}-") for s in range(4)]
    one = paired_difference(firsts[0], seconds[0], "balanced_accuracy")
    four = paired_difference(firsts, seconds, "balanced_accuracy")
    assert None not in (one.low, one.high, four.low, four.high)
    assert (four.high or 0) - (four.low or 0) < 0.7 * ((one.high or 0) - (one.low or 0))


def test_rare_grounding_checks_are_in_every_resample() -> None:
    """A few cases with summaries among many without still give an interval."""
    cases = [
        ScoredCase(str(i), TP if i % 2 else FP, FP, ungrounded=(i % 3 == 0) if i < 6 else None) for i in range(100)
    ]
    found = paired_difference(Arm(tuple(cases)), Arm(tuple(cases)), "grounded_rate", samples=500)
    assert found.low == found.high == 0.0


def test_outages_drop_the_pair() -> None:
    """A case that an outage decided in one arm says nothing about the other."""
    a, b = arm(0.9), arm(0.9)
    first, *rest = b.cases
    out = ScoredCase(first.id, first.label, FP, scorable=False)
    found = paired_difference(a, Arm((out, *rest)), "fnr", samples=50)
    assert (found.n, found.dropped) == (119, 1)


def test_undefined_figures_have_no_interval() -> None:
    """One class only: no balanced accuracy, and no invented bound."""
    cases = tuple(ScoredCase(str(i), FP, FP) for i in range(10))
    found = paired_difference(Arm(cases), Arm(cases), "balanced_accuracy", samples=50)
    assert (found.value, found.low, found.high) == (None, None, None)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        pytest.param(Arm(arm(0.8).cases[:-1]), "different cases", id="a-case-missing"),
        pytest.param(Arm((*arm(0.8).cases, arm(0.8).cases[0])), "unique", id="a-case-twice"),
        pytest.param(Arm((ScoredCase("0", TP, TP), *arm(0.8).cases[1:])), "label", id="another-label"),
    ],
)
def test_arms_that_cannot_be_paired_are_refused(other: Arm, problem: str) -> None:
    """Comparing different cases would compare the cases, not the arms."""
    with pytest.raises(MalformedRow, match=problem):
        paired_difference(arm(0.8), other, "fnr")


def test_nothing_left_to_compare_is_an_error() -> None:
    """All outages: there is no evidence either way."""
    gone = Arm((ScoredCase("a", TP, FP, scorable=False),))
    with pytest.raises(EmptyData):
        paired_difference(gone, gone, "fnr")
