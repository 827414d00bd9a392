"""What a set of judged investigations amounts to.

Balanced accuracy, FNR and AUC are binary (true positive against the rest) and of the model's own verdict before any
threshold: escalated and invalid answers count as wrong, on an attack as missed. Undecidable cases are scored apart,
unscorable ones (an outage decided) are left out and counted. Utility and automatic closing are taken after the
escalation threshold. Pure; called by evaluation, the start gate, the report and the benchmarks.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import ConfigDict, Field

from socadapter_api.case import Verdict
from socadapter_api.manifest import Calibration
from socadapter_api.model import Contract
from socadapter_api.training import UtilityWeights
from socadapter_jobs.scoring.figures import FIGURES, Columns, Floats, columns, prior_weights
from socadapter_jobs.scoring.scored_case import ScoredCase, score

__all__ = ["Metrics", "ScoredCase", "Slice", "score", "summarize", "wilson"]

_Z95 = 1.959963984540054


class Slice(Contract):
    """The main figures of a part of the cases."""

    model_config = ConfigDict(alias_generator=None)

    n: int
    attacks: int
    balanced_accuracy: float | None = None
    fnr: float | None = None
    auc: float | None = None
    utility: float | None = None


class Metrics(Contract):
    """The figures of one model on one set of cases. None where there is nothing to measure, never a made-up zero."""

    model_config = ConfigDict(alias_generator=None)

    n: int = Field(description="Decidable, scorable cases: what every figure is about.")
    attacks: int
    unscorable: int = Field(description="Left out: an outage decided the outcome.")
    undecidable: int = Field(description="Scored apart: the evidence does not decide them.")
    undecidable_escalated: float | None = Field(default=None, description="Share of those rightly escalated.")
    balanced_accuracy: float | None = None
    fnr: float | None = None
    fnr_interval: tuple[float, float] | None = Field(default=None, description="Wilson, 95 %.")
    fpr: float | None = None
    tnr: float | None = None
    auc: float | None = None
    utility: float | None = Field(default=None, description="Mean per case, after the threshold.")
    abstained: float | None = Field(default=None, description="Share that the model itself escalated.")
    closing_precision: float | None = None
    closed_rate: float | None = None
    ece: float | None = None
    brier: float | None = None
    grounded_rate: float | None = None
    invalid_rate: float | None = None
    malformed_per_100: float | None = None
    unknown_tools_per_100: float | None = None
    repeats_per_100: float | None = None
    calls_per_case: float | None = None
    tokens_per_case: float | None = None
    seconds_per_case: float | None = None
    confusion: dict[str, dict[str, int]] = Field(default_factory=dict, description="Label to verdict to count.")
    slices: dict[str, Slice] = Field(default_factory=dict, description="By the cases' group.")
    ambiguous: Slice | None = None

    def flat(self) -> dict[str, float]:
        """The plain numbers that there are, for manifests and results."""
        named = {name: getattr(self, name) for name in ("n", "attacks", "unscorable", "undecidable", *FIGURES)}
        return {name: float(value) for name, value in named.items() if value is not None}


def summarize(
    cases: Iterable[ScoredCase],
    *,
    calibration: Calibration | None = None,
    weights: UtilityWeights | None = None,
    attack_share: float | None = None,
) -> Metrics:
    """All figures of `cases`. Without a calibration, confidences count as they are and nothing is escalated.

    `attack_share` is the share of attacks for which the figures are to hold, where `cases` hold more or fewer of them.
    """
    calibration, weights = calibration or Calibration(), weights or UtilityWeights()
    everything = tuple(cases)
    scorable = [case for case in everything if case.scorable]
    decidable = [case for case in scorable if case.decidable]
    undecidable = [case for case in scorable if not case.decidable]
    escalated = [calibration.decide(case.verdict, case.confidence) is Verdict.ESCALATE for case in undecidable]
    attacks = [case for case in decidable if case.is_attack]
    missed = sum(case.verdict is not Verdict.TRUE_POSITIVE for case in attacks)
    ambiguous = [case for case in decidable if case.ambiguous]
    values = point_figures(columns(decidable, calibration, weights), prior_weights(decidable, attack_share))
    return Metrics(
        n=len(decidable),
        attacks=len(attacks),
        unscorable=len(everything) - len(scorable),
        undecidable=len(undecidable),
        undecidable_escalated=sum(escalated) / len(escalated) if escalated else None,
        fnr_interval=wilson(missed, len(attacks)),
        confusion=confusion(scorable),
        slices=_slices(decidable, calibration, weights),
        ambiguous=_slice(ambiguous, calibration, weights) if ambiguous else None,
        **values,
    )


def point_figures(c: Columns, case_weights: Floats | None = None) -> dict[str, float | None]:
    """Every figure of the columns, their cases weighing alike or as told; None for what they do not define."""
    weight = np.ones((1, len(c.attack))) if case_weights is None else case_weights[None, :]
    found = {name: float(figure(c, weight)[0]) for name, figure in FIGURES.items()}
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def confusion(cases: Iterable[ScoredCase]) -> dict[str, dict[str, int]]:
    """How often each verdict was given to each label that occurs, undecidable cases included."""
    counts = Counter((case.label, case.verdict) for case in cases)
    labels = [verdict for verdict in Verdict if any(label is verdict for label, _ in counts)]
    return {label.value: {verdict.value: counts[label, verdict] for verdict in Verdict} for label in labels}


def wilson(hits: int, n: int) -> tuple[float, float] | None:
    """The 95 % Wilson score interval of `hits` in `n`; None where `n` is 0 (Wilson 1927)."""
    if n == 0:
        return None
    share, z2 = hits / n, _Z95 * _Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (max(0.0, centre - half), min(1.0, centre + half))


def _slices(cases: Sequence[ScoredCase], calibration: Calibration, weights: UtilityWeights) -> dict[str, Slice]:
    groups: dict[str, list[ScoredCase]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    if set(groups) <= {""}:
        return {}
    return {name: _slice(groups[name], calibration, weights) for name in sorted(groups)}


def _slice(cases: Sequence[ScoredCase], calibration: Calibration, weights: UtilityWeights) -> Slice:
    values = point_figures(columns(cases, calibration, weights))
    main = {name: values[name] for name in ("balanced_accuracy", "fnr", "auc", "utility")}
    return Slice(n=len(cases), attacks=sum(case.is_attack for case in cases), **main)
