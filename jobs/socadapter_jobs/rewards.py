"""The trajectory reward: the verdict first, shaping only when it is right, penalties capped.

Pure. To close an alert takes evidence: without any tool's answer it earns nothing, be it right. Else symmetric in its
defaults: from a weak start an asymmetric reward collapses into "always true positive", so the cost of a miss enters as
serving's escalation threshold instead. Called by the grpo stage and shown in the report.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from socadapter_api.case import Verdict
from socadapter_api.training import RewardSpec
from socadapter_api.trajectory import CallOutcome, Stop, Trajectory

_HALF_RIGHT = 0.4
"""Share of the full reward for the right side of the binary question with the wrong word for it. Below what is left of
the full reward under the default cap of penalties."""

_WEIGHT_RANGE = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Reward:
    """A trajectory's reward and its parts; `total` is what the optimizer sees."""

    verdict: float
    shaping: float
    penalty: float

    @property
    def total(self) -> float:
        return self.verdict + self.shaping - self.penalty


def class_weights(labels: Sequence[Verdict], balanced: bool) -> dict[Verdict, float]:
    """Inverse class frequency, mean 1 over the cases, kept within [0.5, 2]; all 1 where `balanced` is False."""
    counts = Counter(labels)
    if not balanced or not counts:
        return dict.fromkeys(Verdict, 1.0)
    low, high = _WEIGHT_RANGE
    ideal = {label: len(labels) / (len(counts) * count) for label, count in counts.items()}
    return {label: min(high, max(low, ideal.get(label, 1.0))) for label in Verdict}


def group_rewards(spec: RewardSpec, label: Verdict, weight: float, group: Sequence[Trajectory]) -> list[Reward | None]:
    """Rewards of one alert's trajectories; None for those that an outage decided.

    Conciseness is relative to the correct trajectories of the same group, never absolute: an absolute penalty on tool
    calls teaches a model not to look.
    """
    correct = [t for t in group if t.scorable and t.verdict is label and not _unborne(t)]
    fewest = min((len(t.calls) for t in correct), default=0)
    return [_reward(spec, label, weight, trajectory, fewest) if trajectory.scorable else None for trajectory in group]


def _reward(spec: RewardSpec, label: Verdict, weight: float, trajectory: Trajectory, fewest_calls: int) -> Reward:
    verdict = weight * verdict_reward(spec, label, trajectory.verdict)
    if _unborne(trajectory):
        verdict = min(verdict, 0.0)
    shaping = 0.0
    if trajectory.verdict is label:
        used = any(call.outcome is CallOutcome.OK for call in trajectory.calls)
        extra = len(trajectory.calls) - fewest_calls
        shaping = spec.evidence * used + (spec.concise / (1 + extra) if used else 0.0)
    return Reward(verdict, shaping, weight * penalty(spec, trajectory))  # as the verdict, or mess would outweigh it


def _unborne(trajectory: Trajectory) -> bool:
    """Whether it closes its alert without any tool's answer, of which *no data* is one."""
    return trajectory.verdict.closes and not any(call.outcome.answered for call in trajectory.calls)


def verdict_reward(spec: RewardSpec, label: Verdict, verdict: Verdict) -> float:
    """What the verdict alone is worth on a case of this label."""
    if verdict is label:
        return spec.correct
    if verdict is Verdict.INVALID:
        return spec.invalid
    if label is Verdict.ESCALATE:
        return spec.false_alarm if verdict is Verdict.TRUE_POSITIVE else spec.missed_attack
    if verdict is Verdict.ESCALATE:
        return spec.escalated
    if label is Verdict.TRUE_POSITIVE:
        return spec.missed_attack
    if verdict is Verdict.TRUE_POSITIVE:
        return spec.false_alarm
    return _HALF_RIGHT * spec.correct


def penalty(spec: RewardSpec, trajectory: Trajectory) -> float:
    """What loops, invented tools and formats cost; capped, so that correct but messy beats wrong but tidy."""
    spent = trajectory.stop in (Stop.TURNS, Stop.CALLS, Stop.TOKENS)
    total = (
        spec.repeat_penalty * trajectory.repeats
        + spec.unknown_tool_penalty * trajectory.unknown_tools
        + spec.malformed_penalty * trajectory.malformed
        + spec.ungrounded_penalty * trajectory.ungrounded
        + spec.budget_penalty * spent
    )
    return min(spec.penalty_cap, total)


def teaches(rewards: Sequence[Reward | None]) -> bool:
    """Whether a group's verdicts differ in reward. Groups that differ only in shaping are left out: a small
    difference in tidiness would otherwise count as much as being right."""
    values = {round(reward.verdict, 6) for reward in rewards if reward is not None}
    return len(values) > 1
