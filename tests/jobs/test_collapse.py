"""Each sign of a collapsing policy is seen, and nothing else is taken for one."""

import json
from dataclasses import asdict

import pytest

from socadapter_api.case import Verdict
from socadapter_api.trajectory import ToolCall, Trajectory
from socadapter_jobs.collapse import ENTROPY_STEPS, SOLVED, WINDOW_STEPS, CollapseWatch, StepSigns, signs

TP, FP = "true_positive", "false_positive"
TOOLS = (("signins",), ("assets",))
EVEN = (TP, FP) * 10


def step(
    verdicts: tuple[str, ...] = (TP, TP, FP, FP) * 5,
    labels: tuple[str, ...] = EVEN,
    sequences: tuple[tuple[str, ...], ...] = TOOLS,
    zero_variance: float = 0.5,
    entropy: float = 0.5,
) -> StepSigns:
    return StepSigns(verdicts, labels, sequences, zero_variance, entropy)


HEALTHY = step()
ONE = (TP,) * 19
RARE = (TP, *(FP,) * 15)


def after(*steps: StepSigns, watch: CollapseWatch | None = None) -> tuple[str, str] | None:
    watch = watch or CollapseWatch()
    found = None
    for seen in steps:
        found = found or watch.see(seen)
    return found


@pytest.mark.parametrize(
    ("seen", "reason", "told"),
    [
        pytest.param(step((*ONE, "escalate")), "OneVerdict", "95%", id="one verdict"),
        pytest.param(
            step((FP,) * 80, RARE * 5, zero_variance=1.0), "OneVerdict", "94% of their", id="the frequent one"
        ),
        pytest.param(step(("invalid",) * 20), "OneVerdict", "invalid", id="no verdict at all"),
        pytest.param(
            step(sequences=(("signins", "assets"),)), "OneToolSequence", "signins > assets", id="one tool sequence"
        ),
        pytest.param(step(sequences=((),)), "OneToolSequence", "nothing", id="no tools at all"),
        pytest.param(step(zero_variance=0.9), "NoVariance", "90%", id="groups that agree"),
        pytest.param(step((*EVEN[:18], FP, TP), zero_variance=0.9), SOLVED, "nothing left", id="all is learned"),
    ],
)
def test_a_sign_that_lasts_is_collapse(seen: StepSigns, reason: str, told: str) -> None:
    """Judged over a window: one step less is not enough."""
    begun = CollapseWatch(0.5, TOOLS)
    assert after(*[seen] * (WINDOW_STEPS - 1), watch=begun) is None
    found = begun.see(seen)
    assert found is not None
    assert reason == found[0]
    assert told in found[1]


def test_entropy_that_stays_low_is_collapse() -> None:
    """A mean below thirty percent of the start, which is the first step's unless a run remembers an earlier one."""
    fallen = step(entropy=0.14)
    found = after(HEALTHY, *[fallen] * ENTROPY_STEPS)
    assert found is not None
    assert "EntropyCollapse" == found[0]
    assert after(*[fallen] * ENTROPY_STEPS) is None
    assert after(*[fallen] * ENTROPY_STEPS, watch=CollapseWatch(start_entropy=0.5)) is not None


def test_a_sure_policy_may_be_surer_for_a_batch() -> None:
    """Entropies as they were seen of a policy that hardly ever errs: single steps fall far, and come back."""
    seen = (0.049, 0.011, 0.042, 0.013, 0.009, 0.051, 0.028, 0.010, 0.030)
    assert after(*[step(entropy=entropy) for entropy in seen]) is None


def test_a_healthy_run_is_left_alone() -> None:
    """At the limits themselves, too: ninety percent of one verdict, eighty percent of agreeing groups."""
    edge = step(((TP,) * 9 + ("escalate",)) * 2, zero_variance=0.8, entropy=0.15)
    assert after(HEALTHY, *[edge] * 20) is None


@pytest.mark.parametrize("rare", [pytest.param(RARE, id="94 % alike"), pytest.param((FP,) * 16, id="all alike")])
def test_what_the_data_call_for_is_no_collapse(rare: tuple[str, ...]) -> None:
    """Verdicts as frequent as their labels, and one tool sequence from the start, whatever the data's balance."""
    only = (("signins",),)
    assert after(*[step(rare, rare, only)] * 20) is None
    found = after(*[step(rare, rare, only, zero_variance=1.0, entropy=0.5 / (1 + n)) for n in range(WINDOW_STEPS)])
    assert found is not None
    assert SOLVED == found[0]


def test_too_few_other_labels_prove_nothing() -> None:
    """Fewer than 16 trajectories in the window on cases of another label."""
    few = step((FP,) * 32, (*(TP,) * 3, *(FP,) * 29))
    assert after(*[few] * WINDOW_STEPS) is None


def test_one_sequence_is_judged_by_what_the_stage_began_with() -> None:
    """Half of the verdicts right: fine with the only sequence there ever was, a collapse where there were two."""
    only = step(sequences=(("signins",),))
    assert after(*[only] * 20) is None
    assert after(HEALTHY, *[only] * WINDOW_STEPS) is not None
    assert after(*[only] * WINDOW_STEPS, watch=CollapseWatch(0.5, (("assets",),))) is not None
    wrong = step(verdicts=(FP, TP, TP, TP) * 5, sequences=only.sequences)
    found = after(*[wrong] * WINDOW_STEPS)
    assert found is not None
    assert "OneToolSequence" == found[0]


def test_one_sequence_that_is_right_stays() -> None:
    """Learned to ask no more than it must, and nine in ten verdicts are right."""
    assert after(HEALTHY, *[step(EVEN, sequences=(("signins",),))] * 20) is None


def test_an_old_sign_leaves_the_window() -> None:
    """Recovery within the window is no collapse."""
    bad = step(zero_variance=1.0)
    watch = CollapseWatch()
    for _ in range(10):
        assert not any(watch.see(seen) for seen in (bad, bad, HEALTHY, HEALTHY))


def test_signs_are_read_from_trajectories() -> None:
    """Verdicts and labels as words, tool sequences in the order of the calls."""
    investigated = Trajectory(verdict=Verdict.ESCALATE, calls=(ToolCall(tool="a"), ToolCall(tool="b")))
    seen = signs([investigated], [Verdict.TRUE_POSITIVE], 0.25, 0.3)
    assert StepSigns(("escalate",), (TP,), (("a", "b"),), 0.25, 0.3) == seen


def test_a_window_outlives_a_kill() -> None:
    """Through JSON it comes back as it was, and goes on where it stood."""
    bad = step(("invalid",) * 20)
    before = CollapseWatch()
    assert after(*[bad] * (WINDOW_STEPS - 1), watch=before) is None
    kept = json.loads(json.dumps([asdict(seen) for seen in before.window]))
    resumed = CollapseWatch(before.start_entropy, before.start_sequences)
    resumed.window.extend(StepSigns.of_json(row) for row in kept)
    assert before.window == resumed.window
    assert resumed.see(bad) == before.see(bad) is not None
