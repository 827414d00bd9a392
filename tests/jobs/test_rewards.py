"""What an investigation is worth: its verdict first, tidiness only when that is right, mess never more than half."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api.case import ANSWERS, Verdict
from socadapter_api.training import RewardSpec
from socadapter_api.trajectory import CallOutcome, Stop, ToolCall, Trajectory
from socadapter_jobs.rewards import Reward, class_weights, group_rewards, penalty, teaches, verdict_reward

SPEC = RewardSpec()
TP, BTP, FP, ESCALATE = ANSWERS


def investigation(
    verdict: Verdict, calls: int = 1, outcome: CallOutcome = CallOutcome.OK, **more: object
) -> Trajectory:
    asked = tuple(ToolCall(tool=f"t{n}", evidence_id=f"e{n}", outcome=outcome) for n in range(calls))
    return Trajectory.model_validate({"verdict": verdict, "calls": asked, "turns": calls + 1, **more})


def total(label: Verdict, trajectory: Trajectory, *peers: Trajectory, weight: float = 1.0) -> float:
    reward = group_rewards(SPEC, label, weight, [trajectory, *peers])[0]
    assert reward is not None
    return reward.total


counts = st.integers(0, 12)
messes = st.builds(
    lambda verdict, calls, outcome, stop, malformed, unknown, repeats, ungrounded: investigation(
        verdict,
        calls,
        outcome,
        stop=stop,
        malformed=malformed,
        unknown_tools=unknown,
        repeats=repeats,
        ungrounded=ungrounded,
    ),
    st.sampled_from(Verdict),
    st.integers(0, 6),
    st.sampled_from([CallOutcome.OK, CallOutcome.NO_DATA, CallOutcome.UNKNOWN_TOOL, CallOutcome.REPEATED]),
    st.sampled_from(Stop),
    counts,
    counts,
    counts,
    counts,
)


@given(label=st.sampled_from(ANSWERS), right=messes, wrong=st.sampled_from(Verdict), weight=st.floats(0.5, 2.0))
def test_correct_but_messy_beats_wrong_but_tidy(
    label: Verdict, right: Trajectory, wrong: Verdict, weight: float
) -> None:
    """Whatever the mess, the class weight and the kind of error, where what it closes it has looked into."""
    messy = right.model_copy(update={"verdict": label})
    closes = label in (BTP, FP)
    looked = any(call.outcome in (CallOutcome.OK, CallOutcome.NO_DATA) for call in messy.calls)
    if wrong is not label and (looked or not closes):
        assert total(label, messy, weight=weight) > total(label, investigation(wrong), weight=weight)


@given(label=st.sampled_from(ANSWERS), trajectory=messes)
def test_shaping_needs_the_right_verdict(label: Verdict, trajectory: Trajectory) -> None:
    """Evidence and brevity are worth nothing to a wrong verdict, and at most a quarter to a right one."""
    reward = group_rewards(SPEC, label, 1.0, [trajectory])[0]
    assert reward is not None
    if trajectory.verdict is not label:
        assert 0.0 == reward.shaping
    assert 0.0 <= reward.shaping <= SPEC.evidence + SPEC.concise


@given(trajectory=messes)
def test_penalties_are_capped(trajectory: Trajectory) -> None:
    """All mess together costs at most the cap."""
    assert 0.0 <= penalty(SPEC, trajectory) <= SPEC.penalty_cap


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        pytest.param({"repeats": 2}, 0.2, id="repeats"),
        pytest.param({"unknown_tools": 1}, 0.2, id="unknown tool"),
        pytest.param({"malformed": 1}, 0.1, id="malformed"),
        pytest.param({"ungrounded": 1}, 0.3, id="ungrounded"),
        pytest.param({"stop": Stop.TURNS}, 0.3, id="out of turns"),
        pytest.param({"stop": Stop.CALLS}, 0.3, id="out of calls"),
        pytest.param({"stop": Stop.TOKENS}, 0.3, id="out of tokens"),
        pytest.param({"stop": Stop.ENVIRONMENT}, 0.0, id="outage"),
    ],
)
def test_each_kind_of_mess_has_its_price(count: dict[str, object], expected: float) -> None:
    """As the spec names it."""
    assert penalty(SPEC, investigation(TP, **count)) == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "verdict", "expected"),
    [
        pytest.param(TP, TP, 1.0, id="right"),
        pytest.param(TP, FP, -1.0, id="missed attack"),
        pytest.param(FP, TP, -1.0, id="false alarm"),
        pytest.param(FP, BTP, 0.4, id="closed under the wrong word"),
        pytest.param(TP, ESCALATE, -0.3, id="escalated although decidable"),
        pytest.param(ESCALATE, ESCALATE, 1.0, id="rightly escalated"),
        pytest.param(ESCALATE, TP, -1.0, id="alarm on the undecidable"),
        pytest.param(ESCALATE, FP, -1.0, id="closed the undecidable"),
        pytest.param(BTP, Verdict.INVALID, -1.0, id="no verdict"),
    ],
)
def test_what_a_verdict_is_worth(label: Verdict, verdict: Verdict, expected: float) -> None:
    """Symmetric in its defaults."""
    assert expected == pytest.approx(verdict_reward(SPEC, label, verdict))


def test_brevity_counts_relative_to_correct_peers_only() -> None:
    """Three calls are as good as any where every correct peer needed three; a short wrong answer sets no standard."""
    long = investigation(TP, calls=3)
    alone = total(TP, long)
    assert alone == total(TP, long, investigation(TP, calls=4), investigation(FP, calls=0))
    assert alone > total(TP, long, investigation(TP, calls=1))


def test_no_evidence_no_bonus() -> None:
    """Guessing right without a call that was answered earns the verdict alone."""
    assert 1.0 == total(TP, investigation(TP, calls=0))
    assert 1.0 == total(TP, investigation(TP, calls=1, outcome=CallOutcome.NO_DATA))
    assert 1.25 == pytest.approx(total(TP, investigation(TP, calls=1)))


@pytest.mark.parametrize(
    ("label", "verdict"),
    [pytest.param(FP, FP, id="right"), pytest.param(BTP, BTP, id="right too"), pytest.param(FP, BTP, id="half right")],
)
def test_a_close_that_no_answer_bears_out_earns_nothing(label: Verdict, verdict: Verdict) -> None:
    """Guessed, or after calls that were refused; that there is nothing is an answer. To look is what such a group
    teaches, and a guess sets no standard of brevity."""
    guesses = [
        investigation(verdict, calls=0),
        investigation(verdict, outcome=CallOutcome.UNKNOWN_TOOL),
        investigation(verdict, outcome=CallOutcome.REPEATED),
        investigation(verdict, outcome=CallOutcome.INVALID_ARGUMENTS),
    ]
    assert [Reward(0.0, 0.0, 0.0)] * len(guesses) == group_rewards(SPEC, label, 2.0, guesses)
    looked = investigation(verdict, outcome=CallOutcome.NO_DATA)
    assert verdict_reward(SPEC, label, verdict) == total(label, looked)
    assert teaches(group_rewards(SPEC, label, 1.0, [looked, *guesses]))
    answered = investigation(verdict)
    assert total(label, answered) == total(label, answered, *guesses)


def test_a_wrong_close_and_an_alarm_cost_what_they_do_without_evidence_too() -> None:
    """Nothing is earned by not looking where the verdict is wrong, and an attack may be told from its alert."""
    assert -1.0 == total(TP, investigation(FP, calls=0)) == total(ESCALATE, investigation(BTP, calls=0))
    assert 1.0 == total(TP, investigation(TP, calls=0)) == total(ESCALATE, investigation(ESCALATE, calls=0))


def test_an_outage_is_no_reward_and_no_peer() -> None:
    """Unscorable trajectories get None and set no standard of brevity."""
    broken = investigation(TP, calls=1, scorable=False)
    first, second = group_rewards(SPEC, TP, 1.0, [broken, investigation(TP, calls=2)])
    assert first is None
    assert second is not None
    assert SPEC.evidence + SPEC.concise == pytest.approx(second.shaping)


def test_rare_classes_weigh_more_within_limits() -> None:
    """Inverse frequency between a half and two; every verdict has a weight; off, all weigh one."""
    weights = class_weights([TP] + [FP] * 9, balanced=True)
    assert [2.0, 5 / 9] == pytest.approx([weights[TP], weights[FP]])
    assert set(weights) == set(Verdict)
    assert {1.0} == set(class_weights([TP] + [FP] * 9, balanced=False).values())


def test_only_verdicts_make_a_group_teach() -> None:
    """A group that differs in tidiness alone, or in outages, teaches nothing."""
    tidy, messy, wrong = Reward(1.0, 0.25, 0.0), Reward(1.0, 0.0, 0.5), Reward(-1.0, 0.0, 0.0)
    assert not teaches([tidy, messy])
    assert not teaches([tidy, None])
    assert teaches([tidy, None, wrong])
