"""Each sign of a collapsing policy is seen, and nothing else is taken for one."""

import pytest

from socadapter_api.case import Verdict
from socadapter_api.trajectory import ToolCall, Trajectory
from socadapter_jobs.collapse import SOLVED, WINDOW_STEPS, CollapseWatch, StepSigns, signs

HEALTHY = StepSigns(
    verdicts=("true_positive", "false_positive"), sequences=(("signins",), ("assets",)), zero_variance=0.5, entropy=0.5
)
ONE = ("true_positive",) * 19


def after(*steps: StepSigns, start_entropy: float | None = None) -> tuple[str, str] | None:
    watch = CollapseWatch(start_entropy)
    found = None
    for step in steps:
        found = found or watch.see(step)
    return found


@pytest.mark.parametrize(
    ("step", "reason", "told"),
    [
        pytest.param(StepSigns((*ONE, "escalate"), HEALTHY.sequences, 0.5, 0.5), "OneVerdict", "95%", id="one verdict"),
        pytest.param(
            StepSigns(HEALTHY.verdicts, (("signins", "assets"),), 0.5, 0.5),
            "OneToolSequence",
            "signins > assets",
            id="one tool sequence",
        ),
        pytest.param(StepSigns(HEALTHY.verdicts, ((),), 0.5, 0.5), "OneToolSequence", "nothing", id="no tools at all"),
        pytest.param(
            StepSigns(HEALTHY.verdicts, HEALTHY.sequences, 0.9, 0.5, 0.89), "NoVariance", "90%", id="groups that agree"
        ),
        pytest.param(
            StepSigns(HEALTHY.verdicts, HEALTHY.sequences, 0.9, 0.5, 0.9), SOLVED, "nothing left", id="all is learned"
        ),
    ],
)
def test_a_sign_that_lasts_is_collapse(step: StepSigns, reason: str, told: str) -> None:
    """Judged over a window: one step less is not enough."""
    assert after(*[step] * (WINDOW_STEPS - 1)) is None
    found = after(*[step] * WINDOW_STEPS)
    assert found is not None
    assert reason == found[0]
    assert told in found[1]


def test_falling_entropy_is_seen_at_once() -> None:
    """Below thirty percent of the start, which is the first step's unless an interrupted run remembers an earlier."""
    fallen = StepSigns(HEALTHY.verdicts, HEALTHY.sequences, 0.5, 0.14)
    found = after(HEALTHY, fallen)
    assert found is not None
    assert "EntropyCollapse" == found[0]
    assert after(fallen) is None
    assert after(fallen, start_entropy=0.5) is not None


def test_a_healthy_run_is_left_alone() -> None:
    """At the limits themselves, too: ninety percent of one verdict, eighty percent of agreeing groups."""
    edge = StepSigns(("true_positive",) * 9 + ("escalate",), HEALTHY.sequences, 0.8, 0.15)
    assert after(HEALTHY, *[edge] * 20) is None


def test_an_old_sign_leaves_the_window() -> None:
    """Recovery within the window is no collapse."""
    bad = StepSigns(HEALTHY.verdicts, HEALTHY.sequences, 1.0, 0.5)
    watch = CollapseWatch()
    for _ in range(10):
        assert not any(watch.see(step) for step in (bad, bad, HEALTHY, HEALTHY))


def test_signs_are_read_from_trajectories() -> None:
    """Verdicts as words, tool sequences in the order of the calls."""
    seen = signs([Trajectory(verdict=Verdict.ESCALATE, calls=(ToolCall(tool="a"), ToolCall(tool="b")))], 0.25, 0.3)
    assert StepSigns(("escalate",), (("a", "b"),), 0.25, 0.3) == seen
