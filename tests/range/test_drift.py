"""The world can drift: from a day on, other behaviours are routine."""

from pathlib import Path

import pytest

from socadapter_range import CONTEXTS, RangeToolbox, World, expert, range_cases, solve
from socadapter_range.vocabulary import DRIFTS
from socadapter_range.world import HOLDOUT_DAYS

pytestmark = pytest.mark.slow  # builds worlds of weeks


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_changes_verdicts_from_its_day_on(name: str, tmp_path: Path) -> None:
    """Before its day nothing changes; after it the old expertise errs, and the expert of the day is right."""
    world = World(5, drift=[name])
    world.write(tmp_path / "t.sqlite")
    tools = RangeToolbox(tmp_path / "t.sqlite")
    try:
        for context in CONTEXTS:
            for split, errs in (("train", False), ("holdout", True)):
                cases = range_cases(world, context, split, 200)
                assert [case.label for case in cases] == [row.verdict for row in solve(world, cases, tools)]
                wrong = sum(expert(case, tools).verdict is not case.label for case in cases)
                assert (wrong > 0.04 * len(cases)) is errs
                assert errs or wrong == 0
    finally:
        tools.close()


def test_drift_may_name_its_day() -> None:
    """`NAME@DAY` starts a drift on that day; without a day it starts with the holdout."""
    early, late = World(5, drift=["moved-scanner@10"]), World(5, drift=["moved-scanner"])
    context = CONTEXTS[0]
    assert early.policy(context, 9) == late.policy(context, 9) == late.policy(context, HOLDOUT_DAYS.start - 1)
    assert early.policy(context, 10) == late.policy(context, HOLDOUT_DAYS.start) != late.policy(context, 10)
