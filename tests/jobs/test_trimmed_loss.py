"""Leaving out blank rows and padding, and grouping rows, change neither the loss nor its gradients in TRL's trainer."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from socadapter_agent.base_model import BaseModel
from socadapter_api.names import Digest
from socadapter_api.training import LoraSpec
from socadapter_jobs.investigation_trainer import InvestigationTrainer, grouped, trajectory_reward, trimmed
from socadapter_jobs.lean_head import LeanHead
from socadapter_jobs.policy import load_policy, training_arguments

pytestmark = pytest.mark.slow

PROMPT, COMPLETION, ROWS = 20, 14, 8


def make_trainer(base: Path, tokenizer: Any, folder: Path, beta: float) -> InvestigationTrainer:
    policy = load_policy(BaseModel(str(base), base, Digest("")), LoraSpec(rank=4), dtype=torch.float32, seed=0)
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    arguments = GRPOConfig(
        output_dir=str(folder),
        num_generations=4,
        per_device_train_batch_size=ROWS,
        loss_type="dapo",
        scale_rewards="none",
        epsilon_high=0.28,
        beta=beta,
        entropy_coef=0.05,
        temperature=0.7,
        max_steps=1,
        **training_arguments(torch.float32),
    )
    return InvestigationTrainer(
        model=policy,
        args=arguments,
        reward_funcs=trajectory_reward,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": ""}]}] * 4),
        processing_class=tokenizer,
        rollout_func=lambda prompts, trainer: {},
    )


def make_inputs(trained: list[int], seed: int = 0) -> dict[str, Any]:
    """A micro-batch as TRL prepares it; the rows in `trained` carry loss, the others are blanks of the sampler."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 400, (ROWS, PROMPT + COMPLETION), generator=rng)
    mask = torch.zeros_like(ids)
    tools = torch.zeros(ROWS, COMPLETION, dtype=torch.long)
    for row in range(ROWS):
        prompt, completion = (10 + row, 4 + row % 6) if row in trained else (1, 1)
        mask[row, PROMPT - prompt : PROMPT + completion] = 1
        if row in trained:
            tools[row] = torch.rand(COMPLETION, generator=rng).round().long()
            tools[row, 0] = 1
    advantages = torch.randn(ROWS, generator=rng)
    for row in set(range(ROWS)) - set(trained):
        advantages[row] = 0.0
    ids = ids * mask
    scored = mask[:, PROMPT:] * tools
    return {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": mask[:, :PROMPT],
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": mask[:, PROMPT:],
        "tool_mask": tools,
        "advantages": advantages,
        "num_items_in_batch": scored.sum().float(),
        "old_per_token_logps": -4.0 - torch.rand(ROWS, COMPLETION, generator=rng),
        "ref_per_token_logps": -4.0 - torch.rand(ROWS, COMPLETION, generator=rng),
    }


def loss_and_gradients(trainer: InvestigationTrainer, loss: Tensor) -> tuple[float, dict[str, Tensor]]:
    trainer.model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    named = trainer.model.named_parameters()
    return float(loss.detach()), {
        name: p.grad.clone() for name, p in named if p.grad is not None and ".default." in name
    }


@pytest.mark.parametrize("beta", [pytest.param(0.0, id="no kl"), pytest.param(0.1, id="kl")])
@pytest.mark.parametrize(
    "trained",
    [
        pytest.param([0, 1, 2, 3, 4, 5, 6, 7], id="all rows"),
        pytest.param([4, 5, 6, 7], id="one group blank"),
        pytest.param([], id="all blank"),
    ],
)
def test_the_loss_is_the_same_with_and_without(
    blank_base: Path, tokenizer: Any, tmp_path: Path, trained: list[int], beta: float
) -> None:
    """TRL's loss with its own head on the whole batch, against the trimmed batch with the lean head."""
    trainer = make_trainer(blank_base, tokenizer, tmp_path, beta)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = make_inputs(trained)
    expected, expected_gradients = loss_and_gradients(
        trainer, GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    )
    trainer.head = LeanHead(trainer.model, 0.7)
    found, gradients = loss_and_gradients(trainer, trainer._compute_loss(trainer.model, inputs))
    assert expected == pytest.approx(found, abs=1e-6)
    assert expected_gradients.keys() == gradients.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(value, expected_gradients[name], atol=1e-6, rtol=1e-3, msg=name)
    if trained:
        assert max(float(value.abs().max()) for value in gradients.values()) > 1e-6


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_grouping_rows_changes_no_gradient(blank_base: Path, tokenizer: Any, tmp_path: Path, batches: int) -> None:
    """Over a step's micro-batches, blank rows among them, the sums are TRL's for all rows at once, entropy included."""
    trainer = make_trainer(blank_base, tokenizer, tmp_path, 0.1)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    whole = make_inputs([0, 2, 3, 6])
    for one, other in ((0, 3), (2, 6)):
        whole["prompt_ids"][other], whole["prompt_mask"][other] = whole["prompt_ids"][one], whole["prompt_mask"][one]
    expected = loss_and_gradients(trainer, GRPOTrainer._compute_loss(trainer, trainer.model, whole))
    size = ROWS // batches
    parts = [
        {key: value[n * size : (n + 1) * size] if value.dim() else value for key, value in whole.items()}
        for n in range(batches)
    ]
    trainer.head = LeanHead(trainer.model, 0.7)
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = batches
    done = grouped(parts)
    prompts = [prompt.tolist() for part in done for prompt in part["prompt_ids"]]
    assert prompts[4] == prompts[5] != prompts[6] == prompts[7]
    found = loss_and_gradients(trainer, torch.stack([trainer._compute_loss(trainer.model, p) for p in done]).sum())
    assert expected[0] == pytest.approx(found[0], abs=1e-6)
    for name, value in found[1].items():
        torch.testing.assert_close(value, expected[1][name], atol=1e-6, rtol=1e-3, msg=name)
    assert 0.05 == trainer.entropy_coef


def test_what_is_left_out() -> None:
    """Blank rows go, and columns that are padding in all rows that stay; what has no row dimension stays as it is."""
    kept = trimmed(make_inputs([5, 6]))
    assert [(2, 16), (2, 16)] == [tuple(kept[key].shape) for key in ("prompt_ids", "prompt_mask")]
    columns = ("completion_ids", "completion_mask", "tool_mask", "old_per_token_logps", "ref_per_token_logps")
    assert {(2, 9)} == {tuple(kept[key].shape) for key in columns}
    assert 2 == len(kept["advantages"])
    assert make_inputs([5, 6])["num_items_in_batch"] == kept["num_items_in_batch"]
    assert 1 == len(trimmed(make_inputs([]))["prompt_ids"])


def test_rows_without_a_reward_are_no_news(
    blank_base: Path, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """TRL would warn of them at every step, since it cannot know that they are meant; what else it says is heard."""
    trainer = make_trainer(blank_base, tokenizer, tmp_path, 0.0)
    rows = [{"trajectory_reward": reward} for reward in (1.0, None)]
    with caplog.at_level(logging.WARNING):
        rewards = trainer._calculate_rewards(rows, ["a", "b"], ["c", "d"], [[1], [2]])
        logging.getLogger(GRPOTrainer.__module__).warning("something else")
    assert [False, True] == rewards.isnan()[:, 0].tolist()
    assert ["something else"] == caplog.messages
