"""A stage that was cut off goes on from its last complete checkpoint, comes to the same adapter, or refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from socadapter_agent.base_model import BaseModel
from socadapter_agent.chat_format import chat_format
from socadapter_api.errors import ResumeMismatch, ZeroSteps
from socadapter_api.names import Digest
from socadapter_api.training import LoraSpec, SftSpec
from socadapter_jobs.checkpoints import checkpoint_step, last_sealed, require_steps
from socadapter_jobs.examples import encode_all
from socadapter_jobs.policy import adapter_state, base_weights_digest, load_policy, state_digest
from socadapter_jobs.sft import SftOutcome, train_sft

pytestmark = pytest.mark.slow


class StopAt(TrainerCallback):
    """Ends training with a checkpoint, as a stop request does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self._step:
            control.should_save = control.should_training_stop = True


Train = Callable[..., tuple[str, SftOutcome]]


@pytest.fixture
def train(blank_base: Path, tokenizer: Any, data: Any) -> Train:
    """SFT on eight examples for four steps into a folder; the adapter's digest and what happened."""
    examples = encode_all(data.experts[:8], chat_format(tokenizer), data.specs, 512)
    base = BaseModel(str(blank_base), blank_base, Digest(""))

    def run(folder: Path, *callbacks: TrainerCallback, report: Any = lambda *_: None) -> tuple[str, SftOutcome]:
        policy = load_policy(base, LoraSpec(rank=2), dtype=torch.float32, seed=0)
        frozen = base_weights_digest(policy)
        outcome = train_sft(
            policy,
            tokenizer,
            examples,
            SftSpec(epochs=1, batch_size=2, learning_rate=1e-2),
            folder=folder,
            dtype=torch.float32,
            seed=0,
            report=report,
            save_steps=2,
            callbacks=callbacks,
        )
        assert frozen == base_weights_digest(policy)
        return state_digest(adapter_state(policy)), outcome

    return run


def test_a_resumed_stage_comes_to_the_same_adapter(train: Train, tmp_path: Path) -> None:
    """Stopped after two or three of four steps: the same bytes as without a stop, and no step is made twice."""
    whole, outcome = train(tmp_path / "whole")
    assert 4 == outcome.steps
    for stop in (2, 3):
        folder = tmp_path / f"stopped-{stop}"
        stopped, _ = train(folder, StopAt(stop))
        assert whole != stopped
        steps: list[int] = []
        resumed, outcome = train(folder, report=lambda step, of, figures, steps=steps: steps.append(step))
        assert (whole, 4) == (resumed, outcome.steps)
        assert list(range(stop + 1, 5)) == steps


def test_the_first_step_of_a_short_run_learns(train: Train, blank_base: Path, tmp_path: Path) -> None:
    """A night's handful of verdicts makes a handful of steps: none is spent on a warm-up at rate 0."""
    base = BaseModel(str(blank_base), blank_base, Digest(""))
    new = state_digest(adapter_state(load_policy(base, LoraSpec(rank=2), dtype=torch.float32, seed=0)))
    learned, outcome = train(tmp_path, StopAt(1))
    assert 1 == outcome.steps
    assert new != learned


def test_a_finished_stage_without_its_marker_ends_again_at_once(train: Train, tmp_path: Path) -> None:
    """Killed between its last checkpoint and its marker, it makes no further step."""
    first, _ = train(tmp_path)
    again, outcome = train(tmp_path)
    assert (first, 4) == (again, outcome.steps)


@pytest.mark.parametrize(
    "seal", [pytest.param(None, id="none"), pytest.param("", id="empty"), pytest.param('{"a', id="torn")]
)
def test_a_checkpoint_without_a_seal_is_removed(tmp_path: Path, seal: str | None) -> None:
    """The newest sealed one counts; what a kill or a power cut left half-written is gone after."""
    for step, text in ((2, "{}"), (10, "{}"), (12, seal)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        if text is not None:
            (folder / "sealed.json").write_text(text)
    assert tmp_path / "checkpoint-10" == last_sealed(tmp_path)
    assert not (tmp_path / "checkpoint-12").exists()
    assert (10, 0) == (checkpoint_step(last_sealed(tmp_path)), checkpoint_step(None))
    assert last_sealed(tmp_path / "nothing") is None


def test_a_resume_that_restored_something_else_is_refused(train: Train, tmp_path: Path) -> None:
    """The seal names another adapter than the trainer loaded: the run ends with both digests."""
    train(tmp_path, StopAt(2))
    seal = tmp_path / "checkpoint-2" / "sealed.json"
    saved = json.loads(seal.read_text())["adapter"]
    seal.write_text(json.dumps({"adapter": "sha256:other", "step": 2}))
    with pytest.raises(ResumeMismatch, match=f"holds adapter sha256:other.*{saved}"):
        train(tmp_path)


def test_training_that_made_no_step_is_refused() -> None:
    """TRL says it in a log line only."""
    require_steps("grpo", 1, 3)
    with pytest.raises(ZeroSteps, match="grpo finished without one optimizer step over 3 examples"):
        require_steps("grpo", 0, 3)
