"""GRPO that was cut off goes on as if it had not been: with the alerts that would have come next, and no score lost."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from socadapter_agent.base_model import BaseModel
from socadapter_agent.replay import ReplayToolbox, specs_of_cases
from socadapter_api.case import Case
from socadapter_api.names import Digest
from socadapter_api.training import GrpoSpec, LoraSpec, ReplayMiss, UtilityWeights
from socadapter_jobs import grpo
from socadapter_jobs.candidates import STATE
from socadapter_jobs.development import DevelopmentScore
from socadapter_jobs.grpo import GrpoRun, train_grpo
from socadapter_jobs.grpo_memory import GrpoMemory
from socadapter_jobs.policy import load_policy
from socadapter_jobs.rewarded_alerts import sampling_order
from socadapter_jobs.sampler import CASE_KEY, Sampler

pytestmark = pytest.mark.slow

ALERTS, A_STEP, STEPS = 5, 2, 3
SPEC = GrpoSpec(
    steps=STEPS,
    group_size=4,
    alerts_per_step=A_STEP,
    refill_rounds=0,
    max_turns=1,
    max_turn_tokens=8,
    max_context_tokens=512,
    eval_every=2,
)


class StopAt(TrainerCallback):
    """Asks for a checkpoint and an end, as a stop request does."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.seen = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self._step:
            self.seen = control.should_save = control.should_training_stop = True


@dataclass
class Watched:
    """The stage on a blank base, step by step: the alerts that were sampled, and the steps that were scored."""

    run: Callable[[Path], GrpoRun]
    sampled: dict[int, list[str]] = field(default_factory=dict)
    scored: list[tuple[int, list[str]]] = field(default_factory=list)
    """And the checkpoints that were there at the time."""

    def train(self, folder: Path, stop_at: int = 0) -> None:
        stop = StopAt(stop_at)
        train_grpo(replace(self.run(folder), callbacks=(stop,), stopping=lambda: stop.seen))


@pytest.fixture
def watched(blank_base: Path, tokenizer: Any, making: Any, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The start gate has let it in: a blank base would not pass."""
    base = BaseModel(str(blank_base), blank_base, Digest(""))
    cases: list[Case] = making.cases(ALERTS)
    specs = specs_of_cases(cases)

    def run(folder: Path) -> GrpoRun:
        folder.mkdir(exist_ok=True)
        if not (folder / STATE).exists():
            GrpoMemory(refusal="").save(folder / STATE)
        return GrpoRun(
            policy=load_policy(base, LoraSpec(rank=2), dtype=torch.float32, seed=0),
            tokenizer=tokenizer,
            train=cases,
            development=cases,
            spec=SPEC,
            utility=UtilityWeights(),
            toolbox_of=lambda case: ReplayToolbox(case.evidence, specs, ReplayMiss.NO_DATA),
            folder=folder,
            dtype=torch.float32,
            seed=0,
        )

    done = Watched(run)
    sample, score = Sampler.__call__, grpo._Stage.score

    def sampling(self: Sampler, prompts: list[Any], trainer: Any) -> Any:
        done.sampled[trainer.state.global_step] = [prompt[0][CASE_KEY] for prompt in prompts]
        return sample(self, prompts, trainer)

    def scoring(self: grpo._Stage, step: int, *rest: Any) -> DevelopmentScore:
        done.scored.append((step, sorted(path.name for path in self.run.folder.glob("checkpoint-*"))))
        return score(self, step, *rest)

    monkeypatch.setattr(Sampler, "__call__", sampling)
    monkeypatch.setattr(grpo._Stage, "score", scoring)
    return done


@pytest.mark.parametrize("stop", [pytest.param(1, id="first pass"), pytest.param(2, id="second pass")])
def test_a_resumed_stage_samples_what_would_have_come_next(watched: Watched, tmp_path: Path, stop: int) -> None:
    """In whichever pass over the alerts it goes on, the order is that of a stage that nobody stopped."""
    watched.train(tmp_path / "whole")
    whole, watched.sampled = watched.sampled, {}
    assert list(range(STEPS)) == list(whole)
    watched.train(tmp_path / "stopped", stop)
    assert list(range(stop)) == list(watched.sampled)
    watched.train(tmp_path / "stopped")
    assert whole == watched.sampled


def test_a_stop_is_followed_by_its_checkpoint(watched: Watched, tmp_path: Path) -> None:
    """Not by a score, for which the grace until SIGKILL may be too short: the next start makes it first."""
    watched.train(tmp_path, stop_at=2)
    assert [] == watched.scored
    assert (tmp_path / "checkpoint-2" / "sealed.json").is_file()
    watched.train(tmp_path)
    assert [2, 3] == [step for step, _ in watched.scored]
    assert ["checkpoint-2"] == watched.scored[0][1]
    kept = json.loads((tmp_path / STATE).read_text())
    assert [2, 3] == [row["step"] for row in kept["development"]]


def test_a_stop_after_the_last_step_leaves_its_score_to_the_next_start(watched: Watched, tmp_path: Path) -> None:
    """Which makes no further step."""
    watched.train(tmp_path, stop_at=STEPS)
    assert [2] == [step for step, _ in watched.scored]
    made = dict(watched.sampled)
    watched.train(tmp_path)
    assert [2, 3] == [step for step, _ in watched.scored]
    assert made == watched.sampled


def test_each_score_tells_how_far_it_is(watched: Watched, tmp_path: Path) -> None:
    """That of the start gate, before any step, and those of the development split between steps, beside the steps."""
    told: list[tuple[int, int, str, int, int]] = []
    train_grpo(replace(watched.run(tmp_path), telling=lambda *at: told.append(at)))
    expected = [(step, STEPS, "development", done, ALERTS) for step in (2, 3) for done in range(1, ALERTS + 1)]
    assert expected == [at for at in told if at[2] == "development"]
    assert set(range(STEPS)) == {step for step, _, what, *_ in told if what == "trajectories"}
    told.clear()
    fresh = replace(watched.run(tmp_path), folder=tmp_path / "fresh", telling=lambda *at: told.append(at))
    assert "Refused" == train_grpo(fresh).outcome.status
    assert [(0, STEPS, "start gate", done, ALERTS) for done in range(1, ALERTS + 1)] == told


def test_a_pass_takes_whole_steps_of_different_alerts() -> None:
    """Each pass in an order of its own, which the seed decides, whatever the number of steps."""
    spec = GrpoSpec(steps=6, alerts_per_step=A_STEP)
    order = sampling_order(ALERTS, spec, 0)
    assert 12 == len(order)
    passes = [order[start : start + 4] for start in (0, 4, 8)]
    assert [4, 4, 4] == [len(set(each)) for each in passes]
    assert passes[0] != passes[1]
    assert set(order) <= set(range(ALERTS))
    assert order != sampling_order(ALERTS, spec, 1)
    assert order[:6] == sampling_order(ALERTS, spec.model_copy(update={"steps": 3}), 0)
