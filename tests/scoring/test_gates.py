"""Gates: what passes, what does not, and that no figure is never a pass."""

import pytest

from socadapter_api.case import Verdict
from socadapter_api.training import Comparison, Gate, Metric
from socadapter_jobs.scoring import gates
from socadapter_jobs.scoring.bootstrap import Arm
from socadapter_jobs.scoring.metrics import ScoredCase

TP, FP = Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE


def arm(missed: int, alarms: int = 0, n: int = 200) -> Arm:
    """`n` cases, half attacks, of which the first `missed` are missed and `alarms` of the others are false alarms."""
    half = n // 2
    attacks = [ScoredCase(f"a{i}", TP, FP if i < missed else TP, 0.4 if i < missed else 0.9) for i in range(half)]
    others = [ScoredCase(f"b{i}", FP, TP if i < alarms else FP, 0.6 if i < alarms else 0.1) for i in range(half)]
    return Arm((*attacks, *others))


NOT_WORSE = Gate(metric=Metric.FALSE_NEGATIVE_RATE, non_inferiority=Comparison(to="Champion", margin=0.02))


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        pytest.param(Gate(metric=Metric.BALANCED_ACCURACY, min=0.9), True, id="above-min"),
        pytest.param(Gate(metric=Metric.BALANCED_ACCURACY, min=0.96), False, id="below-min"),
        pytest.param(Gate(metric=Metric.FALSE_NEGATIVE_RATE, max=0.1), True, id="at-max"),
        pytest.param(Gate(metric=Metric.FALSE_NEGATIVE_RATE, max=0.05), False, id="above-max"),
        pytest.param(Gate(metric=Metric.UTILITY, min=0.5, max=0.9), True, id="between"),
        pytest.param(Gate(metric=Metric.GROUNDED_RATE, min=0.0), False, id="no-figure"),
    ],
)
def test_bounds(gate: Gate, passed: bool) -> None:
    """The figure must lie within both bounds, inclusive; a missing one never does."""
    (result,) = gates.evaluate([gate], arm(10))
    assert result.passed is passed
    assert result.message


def test_too_many_unscorable_cases_fail_whatever_the_others_are() -> None:
    """A candidate does not pass by having its hard cases left out; up to the bound they are left out and no more."""
    good = arm(0).cases
    left_out = [ScoredCase(f"c{i}", TP, FP, scorable=False) for i in range(25)]
    gate = Gate(metric=Metric.BALANCED_ACCURACY, min=0.9)
    within = gates.evaluate([gate], Arm((*good, *left_out[:22])), max_unscorable_percent=10)
    assert [("balancedAccuracy", True)] == [(result.metric, result.passed) for result in within]
    first, second = gates.evaluate([gate], Arm((*good, *left_out)), max_unscorable_percent=10)
    assert ("unscorableRate", False, True) == (first.metric, first.passed, second.passed)
    assert "25 of 225 cases" in first.message
    assert not gates.passed([first, second])


def test_better_than_the_champion_passes() -> None:
    """Fewer missed attacks than the champion, for certain."""
    (result,) = gates.evaluate([NOT_WORSE], arm(5), champion=arm(20))
    assert result.passed
    assert result.value == pytest.approx(0.05)


def test_worse_than_the_champion_fails() -> None:
    """The message says by how much, and of how many cases."""
    (result,) = gates.evaluate([NOT_WORSE], arm(20), champion=arm(5))
    assert not result.passed
    assert "200 cases" in result.message
    assert "allowed 0.02" in result.message


def test_equal_but_uncertain_does_not_pass() -> None:
    """Arms that err on different cases are equal on paper, but the interval reaches beyond the margin."""
    mirrored = Arm(
        tuple(
            ScoredCase(c.id, c.label, (FP if 10 <= i < 20 else TP) if c.label is TP else c.verdict, c.confidence)
            for i, c in enumerate(arm(0).cases)
        )
    )
    (result,) = gates.evaluate([NOT_WORSE], mirrored, champion=arm(10))
    assert result.value == pytest.approx(0.10)
    assert not result.passed


@pytest.mark.parametrize(
    ("n", "told"),
    [
        pytest.param(4, "after 2 alike, up to 0.658 of them may get worse", id="two attacks"),
        pytest.param(80, "after 40 alike, up to 0.088 of them may get worse", id="forty"),
    ],
)
def test_a_gate_says_what_equal_pairs_do_not_show(n: int, told: str) -> None:
    """Where no pair differs it passes, since so many cases could show no more; how little that is, the result says."""
    (result,) = gates.evaluate([NOT_WORSE], arm(0, n=n), champion=arm(0, n=n))
    assert result.passed
    assert told in result.message


def test_a_gate_on_no_plain_share_says_that_it_saw_nothing() -> None:
    """Balanced accuracy is a mean of two shares and has no such bound; a difference that was seen needs none."""
    gate = Gate(metric=Metric.BALANCED_ACCURACY, non_inferiority=Comparison(to="Base", margin=0.1))
    (blind,), (seen,) = (gates.evaluate([gate], arm(0), base=arm(missed)) for missed in (0, 30))
    assert (True, True) == (blind.passed, blind.message.endswith("proves nothing of other alerts"))
    assert (True, False) == (seen.passed, "No pair differs" in seen.message)


def test_lower_and_higher_are_told_apart() -> None:
    """For accuracy more is better, for misses less: both gates see the same candidate as an improvement."""
    both = [
        Gate(metric=Metric.BALANCED_ACCURACY, non_inferiority=Comparison(to="Base", margin=0.0)),
        Gate(metric=Metric.FALSE_NEGATIVE_RATE, non_inferiority=Comparison(to="Base", margin=0.0)),
    ]
    assert gates.passed(gates.evaluate(both, arm(0), base=arm(30)))
    assert not any(result.passed for result in gates.evaluate(both, arm(30), base=arm(0)))


def test_the_base_stands_in_for_a_champion_that_does_not_exist_yet() -> None:
    """A context's first version is compared with what serves until then, and the result says so."""
    (result,) = gates.evaluate([NOT_WORSE], arm(5), base=arm(30))
    assert result.passed
    assert "no champion yet" in result.rule


def test_nothing_to_compare_with_is_not_a_pass() -> None:
    """Neither champion nor base was scored."""
    (result,) = gates.evaluate([NOT_WORSE], arm(0))
    assert not result.passed
    assert "not scored" in result.message


def test_arms_over_other_cases_are_not_a_pass() -> None:
    """A champion that was scored on another holdout proves nothing; the reason is in the result, not in a traceback."""
    (result,) = gates.evaluate([NOT_WORSE], arm(0), champion=arm(0, n=100))
    assert not result.passed
    assert "different cases" in result.message


def test_a_gate_with_bound_and_comparison_gives_both_results() -> None:
    """Each rule is a line of its own, in the spec's order."""
    gate = Gate(metric=Metric.FALSE_NEGATIVE_RATE, max=0.5, non_inferiority=Comparison(to="Base", margin=0.5))
    results = gates.evaluate([gate], arm(0), base=arm(0))
    assert [result.rule for result in results] == ["max 0.5", "not worse than the base by more than 0.5"]
    assert gates.passed(results)


def test_no_gates_pass() -> None:
    """A spec without gates asks for nothing."""
    assert gates.passed(gates.evaluate([], arm(100)))
