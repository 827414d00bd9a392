"""TRL's GRPO trainer on whole investigations, and what it takes from `Sampler`. Called by `grpo`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl import GRPOTrainer

from socadapter_jobs.lean_head import LeanHead

NO_REWARD = "All reward functions returned None"
"""How TRL's warning begins of a row without a reward."""


def _is_news(record: logging.LogRecord) -> bool:
    """Rows without a reward are no news: an outage decided them, or their group teaches nothing."""
    return NO_REWARD not in record.getMessage()


logging.getLogger(GRPOTrainer.__module__).addFilter(_is_news)


class InvestigationTrainer(GRPOTrainer):
    """TRL's trainer without the work that blanked rows, padding and what a group has in common would cost."""

    head: LeanHead
    entropy_coef: float
    _buffered_inputs: list[dict[str, Any]]

    def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
        before = self._buffered_inputs
        inputs: dict[str, Any] = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before:
            return inputs
        self._buffered_inputs = grouped(self._buffered_inputs)
        own: dict[str, Any] = self._buffered_inputs[self._step % self.args.steps_per_generation]
        return own

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        kept = trimmed(inputs)
        scored = kept["completion_mask"] * kept["tool_mask"]
        with self.head.only(scored), self._entropy_counted(scored, kept["num_items_in_batch"]):
            loss: torch.Tensor = super()._compute_loss(model, kept)
        return loss

    @contextmanager
    def _entropy_counted(self, scored: torch.Tensor, in_batch: torch.Tensor) -> Iterator[None]:
        """Within the context every scored token of a step counts alike in the entropy bonus, as it does in the loss.

        TRL takes the bonus as a mean over each micro-batch: who shares it would matter, and blank ones would lower it.
        """
        coefficient = self.entropy_coef
        parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        self.entropy_coef = coefficient * parts * float(scored.sum()) / max(1.0, float(in_batch))
        try:
            yield
        finally:
            self.entropy_coef = coefficient


def grouped(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A step's micro-batches with the rows of a group, and the blanked ones, side by side.

    TRL shuffles a step's rows. The loss is a sum over them all, and rows that stand in one micro-batch share the work
    for what they have in common.
    """
    size = len(batches[0]["prompt_ids"])
    by_row = {key for key, value in batches[0].items() if isinstance(value, torch.Tensor) and value.dim() > 0}
    whole = {key: torch.cat([batch[key] for batch in batches]) for key in by_row}
    prompts = whole["prompt_ids"].tolist()
    order = torch.tensor(sorted(range(len(prompts)), key=prompts.__getitem__))
    return [
        batch | {key: value[order[number * size : (number + 1) * size]] for key, value in whole.items()}
        for number, batch in enumerate(batches)
    ]


def trimmed(inputs: dict[str, Any]) -> dict[str, Any]:
    """A micro-batch without rows that carry no loss and without columns that are padding in all rows.

    The loss is a sum over tokens divided by a count over the whole generation batch, so that neither changes it. At
    least one row is kept: every worker must run its backward pass.
    """
    trained = (inputs["completion_mask"] * inputs["tool_mask"]).sum(1) > 0
    rows = trained.nonzero()[:, 0] if bool(trained.any()) else torch.zeros(1, dtype=torch.long)
    size = len(trained)
    kept = {
        key: value[rows] if isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == size else value
        for key, value in inputs.items()
    }
    prompt = int(kept["prompt_mask"].sum(1).max())
    completion = int(kept["completion_mask"].sum(1).max())
    for key in ("prompt_ids", "prompt_mask"):
        kept[key] = kept[key][:, kept[key].shape[1] - prompt :]
    for key, value in kept.items():
        if isinstance(value, torch.Tensor) and value.dim() == 2 and not key.startswith("prompt"):
            kept[key] = value[:, :completion]
    return kept


def trajectory_reward(
    prompts: list[Any], completions: list[Any], trajectory_reward: list[float | None], **_: Any
) -> list[float | None]:
    """TRL's reward function: what the sampler computed, one per trajectory; None leaves a row out of the baseline."""
    return trajectory_reward
