"""Stage two: supervised fine-tuning on the investigations that experts approved.

Rows are token ids made by the agent's own chat format; TRL's trainer only optimises. Runs inside a Ray Train worker,
one or several (DDP, DeepSpeed ZeRO-2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import pad

from socadapter_agent import lean_lora
from socadapter_api.training import SftSpec
from socadapter_jobs.checkpoints import CheckpointSeal, ProgressReport, Report, last_sealed, require_steps
from socadapter_jobs.examples import Example
from socadapter_jobs.lean_head import LeanHead
from socadapter_jobs.pairing import reading_order
from socadapter_jobs.policy import training_arguments

_MICRO_BATCH = 8
_WARM_UP = 0.05
_BETA2 = 0.99
"""The optimizer's memory of squared gradients: a hundred steps. The usual thousand outlasts a whole run, whose first
gradients are the largest."""


class WeightedTrainer(SFTTrainer):
    """TRL's trainer with a weight per token.

    The loss is the weighted sum of negative log-likelihoods over the weights of the whole optimizer step, so that the
    learning rate means the same whatever the weights.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        weights = inputs["weights"][:, 1:]
        fields = {key: inputs[key] for key in ("input_ids", "attention_mask", "labels")}
        outputs = model(**fields, fused_lm_head=True)
        total = weights.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = -(outputs.log_probs * weights).sum() / total.clamp(min=1e-6)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        sums = [float(sample["weights"][:, 1:].sum()) for sample in batch_samples]
        total = torch.tensor(sums, device=device).sum()
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total


class WeightedCollator(DataCollatorForLanguageModeling):
    """TRL's collator, which also pads the weights."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        batch["weights"] = pad([torch.tensor(example["weights"]) for example in examples], padding_value=0.0)
        return batch


@dataclass(frozen=True, slots=True)
class SftOutcome:
    """What the stage did."""

    steps: int
    final_loss: float
    history: list[dict[str, float]]


def train_sft(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    spec: SftSpec,
    *,
    folder: Path,
    dtype: torch.dtype,
    seed: int,
    workers: int = 1,
    deepspeed: dict[str, Any] | None = None,
    report: Report = lambda *_: None,
    save_steps: int = 10,
    callbacks: Sequence[TrainerCallback] = (),
) -> SftOutcome:
    """Trains `policy` in place and returns what happened; resumes from the last sealed checkpoint in `folder`.

    Raises:
        ZeroSteps: not one optimizer step was made.
        ResumeMismatch: a checkpoint was not restored as it was saved.
    """
    per_worker = max(1, spec.batch_size // workers)
    micro = math.gcd(per_worker, _MICRO_BATCH)
    order = reading_order(examples, max(1, round(len(examples) * spec.epochs)), seed)
    steps = math.ceil(len(order) / (per_worker * workers))
    resume = last_sealed(folder)
    arguments = SFTConfig(
        output_dir=str(folder),
        learning_rate=spec.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(_WARM_UP * steps),  # its first step has rate 0: none where there are few
        adam_beta2=_BETA2,
        max_steps=steps,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=per_worker // micro,
        max_length=None,
        packing=False,
        save_steps=save_steps,
        seed=seed,
        data_seed=seed,
        deepspeed=deepspeed,
        dataset_kwargs={"skip_prepare_dataset": True},
        **training_arguments(dtype),
    )
    rows = [{"input_ids": e.input_ids, "labels": e.labels, "weights": e.weights} for e in examples]
    trainer = WeightedTrainer(
        model=policy,
        args=arguments,
        train_dataset=Dataset.from_list(rows).select(order),
        processing_class=tokenizer,
        data_collator=WeightedCollator(pad_token_id=int(tokenizer.pad_token_id)),
        callbacks=[CheckpointSeal(policy, resume), ProgressReport(report), *callbacks],
    )
    LeanHead(policy, entropy=False)
    lean_lora.fuse(policy)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    require_steps("sft", trainer.state.global_step, len(examples))
    history = [dict(row) for row in trainer.state.log_history if "loss" in row]
    return SftOutcome(trainer.state.global_step, float(history[-1]["loss"]) if history else math.nan, history)
