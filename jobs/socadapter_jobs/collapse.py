"""Signs that a policy is collapsing, watched at every GRPO step.

Collapse shows before accuracy does: entropy falls away, one verdict or one tool sequence answers everything, or no
group disagrees any more. Pure; called by the grpo stage, which stops at the first sign and keeps its best checkpoint.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from socadapter_api.trajectory import Trajectory

ENTROPY_SHARE = 0.30
CLASS_SHARE = 0.90
ZERO_VARIANCE_SHARE = 0.80
SOLVED_SHARE = 0.90
SOLVED = "NothingLeft"
"""The reason of a stop that is no collapse: groups agree because their verdicts are right."""
WINDOW_STEPS = 4
"""Signs other than entropy are judged over this many steps: one batch of a few alerts proves nothing."""


@dataclass(frozen=True, slots=True)
class StepSigns:
    """What one step showed.

    `verdicts` and `sequences` have one entry per trajectory; `zero_variance` is the share of groups whose verdicts
    were all worth the same, after refilling; `entropy` is in nats per sampled token.
    """

    verdicts: tuple[str, ...]
    sequences: tuple[tuple[str, ...], ...]
    zero_variance: float
    entropy: float
    right: float = 0.0
    """Share of the trajectories whose verdict was their case's."""


def signs(trajectories: Sequence[Trajectory], zero_variance: float, entropy: float, right: float = 0.0) -> StepSigns:
    """The signs in one step's trajectories."""
    return StepSigns(
        verdicts=tuple(t.verdict.value for t in trajectories),
        sequences=tuple(tuple(call.tool for call in t.calls) for t in trajectories),
        zero_variance=zero_variance,
        entropy=entropy,
        right=right,
    )


@dataclass(slots=True)
class CollapseWatch:
    """Remembers a window of steps and names the first sign of collapse."""

    start_entropy: float | None = None
    _window: deque[StepSigns] = field(default_factory=lambda: deque(maxlen=WINDOW_STEPS))

    def see(self, step: StepSigns) -> tuple[str, str] | None:
        """A reason and a sentence where `step` completes a sign of collapse, or shows that all is learned."""
        if self.start_entropy is None:
            self.start_entropy = step.entropy
        self._window.append(step)
        if step.entropy < ENTROPY_SHARE * self.start_entropy:
            return "EntropyCollapse", f"entropy fell from {self.start_entropy:.3f} to {step.entropy:.3f} nats per token"
        if len(self._window) < WINDOW_STEPS:
            return None
        return self._one_verdict() or self._one_sequence() or self._no_variance()

    def _one_verdict(self) -> tuple[str, str] | None:
        counts = Counter(verdict for step in self._window for verdict in step.verdicts)
        verdict, count = counts.most_common(1)[0]
        share = count / counts.total()
        if share <= CLASS_SHARE:
            return None
        return "OneVerdict", f"{share:.0%} of the last {counts.total()} trajectories answered {verdict}"

    def _one_sequence(self) -> tuple[str, str] | None:
        sequences = {sequence for step in self._window for sequence in step.sequences}
        if len(sequences) > 1:
            return None
        return (
            "OneToolSequence",
            f"every trajectory of {WINDOW_STEPS} steps called {' > '.join(sequences.pop()) or 'nothing'}",
        )

    def _no_variance(self) -> tuple[str, str] | None:
        share = sum(step.zero_variance for step in self._window) / len(self._window)
        if share <= ZERO_VARIANCE_SHARE:
            return None
        agreed = f"{share:.0%} of the groups of {WINDOW_STEPS} steps agreed after refilling"
        right = sum(step.right for step in self._window) / len(self._window)
        if right >= SOLVED_SHARE:
            return SOLVED, f"{agreed}, and {right:.0%} of their verdicts were right: nothing left to learn"
        return "NoVariance", f"{agreed}, and {right:.0%} of their verdicts were right: nothing to learn from"
