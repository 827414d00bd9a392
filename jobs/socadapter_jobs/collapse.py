"""Signs that a policy is collapsing, watched at every GRPO step.

Collapse shows before accuracy does: entropy falls away, one verdict or one tool sequence answers everything, or no
group disagrees any more. What the data themselves call for is none: a verdict may be as frequent as its label, and one
tool sequence may be all that the alerts need. Pure; called by the grpo stage, which stops at the first sign and keeps
its best checkpoint.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from socadapter_api.case import Verdict
from socadapter_api.trajectory import Trajectory

ENTROPY_SHARE = 0.30
ENTROPY_STEPS = 3
"""Entropy is judged by its mean over so many steps: a policy that is nearly sure has batches that differ threefold."""
CLASS_SHARE = 0.90
OTHERS_SHARE = 0.20
"""One verdict answers everything where the others come less than this often, relative to their labels."""
MIN_OTHERS = 16
"""So many trajectories on cases of other labels must be in the window before one verdict is too much."""
ZERO_VARIANCE_SHARE = 0.80
SOLVED_SHARE = 0.90
POOR_SHARE = 0.50
"""Below this share of right verdicts, one tool sequence is too few even where the stage began with it."""
SOLVED = "NothingLeft"
"""The reason of a stop that is no collapse: groups agree because their verdicts are right."""
WINDOW_STEPS = 4
"""The other signs are judged over this many steps: one batch of a few alerts proves nothing."""

Sequences = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class StepSigns:
    """What one step showed.

    `verdicts`, `labels` and `sequences` have one entry per trajectory, in one order; `zero_variance` is the share of
    groups whose verdicts were all worth the same, after refilling; `entropy` is in nats per sampled token. All are
    without what an outage took out, which says nothing of the policy.
    """

    verdicts: tuple[str, ...]
    labels: tuple[str, ...]
    sequences: Sequences
    zero_variance: float
    entropy: float
    step: int = 0
    """The optimizer step that the trajectories were sampled for."""

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> "StepSigns":
        """What JSON made of `dataclasses.asdict`."""
        words = {name: tuple(row[name]) for name in ("verdicts", "labels")}
        return cls(**{**row, **words, "sequences": tuple(tuple(sequence) for sequence in row["sequences"])})


def signs(
    trajectories: Sequence[Trajectory], labels: Sequence[Verdict], zero_variance: float, entropy: float, step: int = 0
) -> StepSigns:
    """The signs in one step's trajectories, `labels` being those of their cases."""
    return StepSigns(
        verdicts=tuple(t.verdict.value for t in trajectories),
        labels=tuple(label.value for label in labels),
        sequences=tuple(tuple(call.tool for call in t.calls) for t in trajectories),
        zero_variance=zero_variance,
        entropy=entropy,
        step=step,
    )


@dataclass(slots=True)
class CollapseWatch:
    """Remembers how the stage began and a window of steps, and names the first sign of collapse."""

    start_entropy: float | None = None
    start_sequences: Sequences = ()
    """The different tool sequences of the first step."""
    window: deque[StepSigns] = field(default_factory=lambda: deque(maxlen=WINDOW_STEPS))

    def see(self, step: StepSigns) -> tuple[str, str] | None:
        """A reason and a sentence where `step` completes a sign of collapse, or shows that all is learned."""
        if self.start_entropy is None:
            self.start_entropy = step.entropy
            self.start_sequences = tuple(sorted(set(step.sequences)))
        self.window.append(step)
        if len(self.window) < WINDOW_STEPS:
            return self._entropy()
        return self._one_verdict() or self._solved() or self._entropy() or self._one_sequence() or self._dull()

    def _entropy(self) -> tuple[str, str] | None:
        last = [step.entropy for step in self.window][-ENTROPY_STEPS:]
        mean = sum(last) / len(last)
        if self.start_entropy is None or len(last) < ENTROPY_STEPS or mean >= ENTROPY_SHARE * self.start_entropy:
            return None
        told = f"entropy fell from {self.start_entropy:.3f} to {mean:.3f} nats per token"
        return "EntropyCollapse", f"{told}, the mean of {ENTROPY_STEPS} steps"

    def _one_verdict(self) -> tuple[str, str] | None:
        counts = Counter(verdict for step in self.window for verdict in step.verdicts)
        verdict, count = counts.most_common(1)[0]
        labels = [label for step in self.window for label in step.labels]
        others = sum(label != verdict for label in labels)
        share, asked = count / counts.total(), 1 - others / len(labels)
        if share <= CLASS_SHARE or others < MIN_OTHERS or 1 - share >= OTHERS_SHARE * (1 - asked):
            return None
        told = f"{share:.0%} of the last {counts.total()} trajectories answered {verdict}"
        return "OneVerdict", f"{told}, the label of {asked:.0%} of their cases"

    def _one_sequence(self) -> tuple[str, str] | None:
        sequences = {sequence for step in self.window for sequence in step.sequences}
        poor = self._right() < (POOR_SHARE if sequences == set(self.start_sequences) else SOLVED_SHARE)
        if len(sequences) > 1 or not poor:
            return None
        called = " > ".join(sequences.pop()) or "nothing"
        told = f"every trajectory of {WINDOW_STEPS} steps called {called}"
        return "OneToolSequence", f"{told}, and {self._right():.0%} of their verdicts were right"

    def _solved(self) -> tuple[str, str] | None:
        if self._agreeing() <= ZERO_VARIANCE_SHARE or self._right() < SOLVED_SHARE:
            return None
        return SOLVED, f"{self._agreed()}: nothing left to learn"

    def _dull(self) -> tuple[str, str] | None:
        if self._agreeing() <= ZERO_VARIANCE_SHARE:
            return None
        return "NoVariance", f"{self._agreed()}: nothing to learn from"

    def _agreed(self) -> str:
        groups = f"{self._agreeing():.0%} of the groups of {WINDOW_STEPS} steps agreed after refilling"
        return f"{groups}, and {self._right():.0%} of their verdicts were right"

    def _agreeing(self) -> float:
        return sum(step.zero_variance for step in self.window) / len(self.window)

    def _right(self) -> float:
        """Share of the window's trajectories whose verdict was their case's."""
        hits = [v == label for step in self.window for v, label in zip(step.verdicts, step.labels, strict=True)]
        return sum(hits) / len(hits)
