"""One judged investigation: what scoring keeps of a case and its trajectory.

Made by evaluation, development-set checks and the baselines; read by every other module here. It holds the label, so
it never goes near a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from socadapter_api.case import Case, Verdict
from socadapter_api.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class ScoredCase:
    """A case's label beside what was concluded about it. `seconds` is wall time of the investigation."""

    id: str
    label: Verdict
    verdict: Verdict
    confidence: float | None = None
    calls: int = 0
    tokens: int = 0
    malformed: int = 0
    unknown_tools: int = 0
    repeats: int = 0
    ungrounded: int | None = None
    """Citations or quotes without evidence; None where generation stopped at the verdict and nothing was cited."""
    scorable: bool = True
    outage: bool = False
    """A tool failed, which is why it is not scorable; another time it may be."""
    group: str = ""
    ambiguous: bool = False
    seconds: float = 0.0

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "ScoredCase":
        """The case that `asdict` wrote, read back from JSON."""
        return cls(**{**row, "label": Verdict(row["label"]), "verdict": Verdict(row["verdict"])})

    @property
    def is_attack(self) -> bool:
        return self.label is Verdict.TRUE_POSITIVE

    @property
    def decidable(self) -> bool:
        return self.label is not Verdict.ESCALATE


def score(case: Case, trajectory: Trajectory, *, grounding: bool = True) -> ScoredCase:
    """`trajectory` judged against its case. `grounding` is False where no summary was asked for."""
    return ScoredCase(
        id=case.id,
        label=case.label,
        verdict=trajectory.verdict,
        confidence=trajectory.confidence,
        calls=len(trajectory.calls),
        tokens=trajectory.tokens_generated,
        malformed=trajectory.malformed,
        unknown_tools=trajectory.unknown_tools,
        repeats=trajectory.repeats,
        ungrounded=trajectory.ungrounded if grounding else None,
        scorable=trajectory.scorable,
        outage=trajectory.outage,
        group=case.group,
        ambiguous=case.ambiguous,
        seconds=trajectory.seconds,
    )


def verdicts(cases: Sequence[Case], trajectories: Sequence[Trajectory]) -> list[ScoredCase]:
    """Each case's investigation judged; all stopped at their verdicts, so that no summary is."""
    return [score(case, t, grounding=False) for case, t in zip(cases, trajectories, strict=True)]
