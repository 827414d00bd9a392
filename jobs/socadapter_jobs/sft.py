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

from socadapter_api.training import SftSpec
from socadapter_jobs.checkpoints import CheckpointSeal, ProgressReport, Report, last_sealed, require_steps
from socadapter_jobs.examples import Example
from socadapter_jobs.lean_head import LeanHead
from socadapter_jobs.policy import training_arguments

_MICRO_BATCH = 8


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
    resume = last_sealed(folder)
    arguments = SFTConfig(
        output_dir=str(folder),
        learning_rate=spec.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        num_train_epochs=spec.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=per_worker // micro,
        train_sampling_strategy="group_by_length" if workers == 1 else "random",
        max_length=None,
        packing=False,
        save_steps=save_steps,
        seed=seed,
        data_seed=seed,
        deepspeed=deepspeed,
        dataset_kwargs={"skip_prepare_dataset": True},
        **training_arguments(dtype),
    )
    trainer = SFTTrainer(
        model=policy,
        args=arguments,
        train_dataset=Dataset.from_list([{"input_ids": e.input_ids, "labels": e.labels} for e in examples]),
        processing_class=tokenizer,
        callbacks=[CheckpointSeal(policy, resume), ProgressReport(report), *callbacks],
    )
    LeanHead(policy)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    require_steps("sft", trainer.state.global_step, len(examples))
    history = [dict(row) for row in trainer.state.log_history if "loss" in row]
    return SftOutcome(trainer.state.global_step, float(history[-1]["loss"]) if history else math.nan, history)
