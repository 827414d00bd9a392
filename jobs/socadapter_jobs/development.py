"""Scores a policy on the development split: for the start gate, the best checkpoint and calibration."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from socadapter_agent.engine import Engine, Sampling
from socadapter_api.case import Case, Verdict
from socadapter_api.training import GrpoSpec, UtilityWeights
from socadapter_jobs.environment import ToolboxOf
from socadapter_jobs.policy import ADAPTER
from socadapter_jobs.rollouts import LoopThread, Request, budgets_of, investigate_all
from socadapter_jobs.scoring.metrics import summarize
from socadapter_jobs.scoring.scored_case import ScoredCase, verdicts
from socadapter_store.store import write_atomically


@dataclass(frozen=True, slots=True)
class DevelopmentScore:
    """Figures of one evaluation on the development split; those with None could not be computed."""

    step: int
    utility: float
    balanced_accuracy: float | None
    fnr: float | None
    auc: float | None
    valid_percent: float
    """Of the scorable cases."""
    cases: tuple[ScoredCase, ...] = ()

    @property
    def unscorable_percent(self) -> float:
        """Share of the cases that no figure is about."""
        return 100.0 * sum(not case.scorable for case in self.cases) / max(1, len(self.cases))

    def row(self) -> dict[str, float]:
        """The figures for the learning curve."""
        values = {
            "utility": self.utility,
            "balanced_accuracy": self.balanced_accuracy,
            "fnr": self.fnr,
            "auc": self.auc,
        }
        shares = {"valid_percent": self.valid_percent, "unscorable_percent": self.unscorable_percent}
        known = {key: value for key, value in values.items() if value is not None}
        return {"step": float(self.step)} | shares | known


def score_development(
    step: int,
    cases: Sequence[Case],
    engine: Engine,
    toolbox_of: ToolboxOf,
    spec: GrpoSpec,
    weights: UtilityWeights,
    loop: LoopThread,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    attack_share: float | None = None,
    gather: Callable[[list[ScoredCase]], list[ScoredCase]] = lambda own: own,
    done: Callable[[int], None] = lambda count: None,
) -> DevelopmentScore:
    """Investigates `cases` with the policy's adapter and summarises them.

    `attack_share` is that of the alerts as they come in, for the utility; `gather` joins several workers' cases. `done`
    is told how many of `cases` are investigated.
    """
    budgets = budgets_of(spec, summary=False)
    requests = [
        Request(case, ADAPTER, Sampling(temperature, stop_at_verdict=True, seed=seed + number), budgets)
        for number, case in enumerate(cases)
    ]
    counted = itertools.count(1)
    work = investigate_all(requests, engine, toolbox_of, done=lambda *_: done(next(counted)))
    rows = gather(verdicts(cases, [investigation.trajectory for investigation in loop.run(work)]))
    figures = summarize(rows, weights=weights, attack_share=attack_share)
    scorable = [row for row in rows if row.scorable]
    valid = sum(row.verdict is not Verdict.INVALID for row in scorable)
    return DevelopmentScore(
        step=step,
        utility=figures.utility if figures.utility is not None else float("-inf"),
        balanced_accuracy=figures.balanced_accuracy,
        fnr=figures.fnr,
        auc=figures.auc,
        valid_percent=100.0 * valid / max(1, len(scorable)),
        cases=tuple(rows),
    )


def write_scores(path: Path, score: DevelopmentScore) -> None:
    """Keeps a score's cases for calibration."""
    text = json.dumps({"step": score.step, "cases": [asdict(case) for case in score.cases]})
    write_atomically(path, lambda file: file.write(text.encode()))


def read_scored(path: Path) -> list[ScoredCase]:
    """The cases that `write_scores` kept."""
    rows = json.loads(path.read_text())["cases"]
    return [ScoredCase.from_row(row) for row in rows]
