"""The figures that make the range worth learning from."""

from pathlib import Path

import pytest

from socadapter_range import World, export
from socadapter_range.acceptance import balanced_accuracy, check


def test_balanced_accuracy_is_the_mean_of_both_sides() -> None:
    """Half of the positives and all negatives right make three quarters, whatever the mix."""
    truths = [True, True, False, False, False, False]
    assert balanced_accuracy(truths, [True, False, False, False, False, False]) == 0.75


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 21])
def test_all_acceptance_figures_hold(seed: int, tmp_path: Path) -> None:
    """Alert and single tools give little away, the expert's evidence all, and expertise does not carry over."""
    export(World(seed), tmp_path, train=320, holdout=320, extra=680)
    report = check(tmp_path)
    assert report.passed, report.table()
    for context in ("cloud-infrastructure", "corporate-network"):
        own = report.value(f"{context}: expert's evidence")
        assert own - report.value(f"{context}: same, learned in the other context") >= 0.2
