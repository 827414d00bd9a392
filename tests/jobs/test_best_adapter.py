"""GRPO's best adapter and the scores that it was chosen and is calibrated by are kept together, whatever is killed."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from socadapter_agent.base_model import BaseModel
from socadapter_api.names import Digest
from socadapter_api.training import GrpoSpec, LoraSpec, UtilityWeights
from socadapter_jobs import grpo
from socadapter_jobs.candidates import DEVELOPMENT, STATE, best_of_grpo
from socadapter_jobs.development import DevelopmentScore, read_scored
from socadapter_jobs.grpo_memory import GrpoMemory
from socadapter_jobs.policy import load_policy, state_digest
from socadapter_jobs.scoring.scored_case import ScoredCase

pytestmark = pytest.mark.slow

Keep = Callable[..., str]


@pytest.fixture
def keep(blank_base: Path, making: Any, tmp_path: Path) -> Keep:
    """Begins the stage anew in one folder, as after a kill, changes the adapter, and keeps a score of a step."""
    policy = load_policy(
        BaseModel(str(blank_base), blank_base, Digest("")), LoraSpec(rank=2), dtype=torch.float32, seed=0
    )
    unused: Any = None

    def score(step: int, utility: float, lost: int = 0) -> str:
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(step + utility)
        run = grpo.GrpoRun(
            policy=policy,
            tokenizer=unused,
            train=(),
            development=(),
            spec=GrpoSpec(),
            utility=UtilityWeights(),
            toolbox_of=unused,
            folder=tmp_path,
            dtype=torch.float32,
            seed=0,
        )
        stage = grpo._Stage(run, GrpoMemory.load(tmp_path / STATE), tmp_path / STATE, unused, unused)
        label = making.case(1, attack=True).label
        case = ScoredCase(id=f"step {step}", label=label, verdict=label)
        cases = (case,) * (10 - lost) + (replace(case, scorable=False, outage=True),) * lost
        stage._keep(DevelopmentScore(step, utility, None, None, None, 100.0, cases))
        return kept(tmp_path)[0]

    return score


def kept(folder: Path) -> tuple[str, str]:
    """The digest of the best adapter's weights, and the case that its scores are of."""
    best = best_of_grpo(folder)
    assert best is not None
    (case,) = {case.id for case in read_scored(best / DEVELOPMENT)}
    return state_digest(load_file(best / "adapter_model.safetensors")), case


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(grpo, "save_adapter", id="before the adapter"),
        pytest.param(grpo, "write_scores", id="between adapter and scores"),
        pytest.param(GrpoMemory, "save", id="before they are named"),
        pytest.param(grpo._Stage, "_drop_old_bests", id="after they are named"),
    ],
)
def test_a_kill_never_parts_an_adapter_from_its_scores(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """Whole, it is the one before or the one after; the next start goes on and leaves one folder."""

    def killed(*_: Any) -> None:
        raise Killed

    first = keep(2, 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            keep(4, 0.7)
    adapter, case = kept(tmp_path)
    assert (first == adapter) is (case == "step 2") is (name != "_drop_old_bests")
    second = keep(4, 0.8)
    assert (second, "step 4") == kept(tmp_path)
    assert second != first
    assert [best_of_grpo(tmp_path)] == list(tmp_path.glob("best*"))


def test_only_a_better_score_replaces_the_best(keep: Keep, tmp_path: Path) -> None:
    """Nor one that cannot be computed."""
    assert best_of_grpo(tmp_path) is None
    first = keep(2, 0.5)
    assert first == keep(4, 0.5) == keep(6, -math.inf)
    assert (first, "step 2") == kept(tmp_path)
    assert [tmp_path / "best-2"] == list(tmp_path.glob("best*"))


def test_a_score_of_too_few_cases_is_not_compared(keep: Keep, tmp_path: Path) -> None:
    """Left by an outage, the easy ones would come to a utility that no later step reaches."""
    first = keep(2, 0.5, lost=1)
    assert first == keep(4, 1.0, lost=2)
    assert (first, "step 2") == kept(tmp_path)
    assert first != keep(6, 0.7)
    assert "step 6" == kept(tmp_path)[1]
