"""Checkpoints within a stage, sealed so that a half-written one is never resumed, and the guards around a resume.

A checkpoint counts only with ``sealed.json``, written after everything else in it is on the disk, which carries the
adapter's digest; after a resume the loaded adapter must have that digest. Used by the sft and grpo stages.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from socadapter_api.errors import ResumeMismatch, ZeroSteps
from socadapter_jobs.policy import adapter_state, state_digest
from socadapter_store.store import sync_tree, write_atomically

_SEAL = "sealed.json"

Report = Callable[[int, int, dict[str, float]], None]
"""Takes step, steps and the latest figures."""


def last_sealed(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`; incomplete ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=checkpoint_step)
    sealed = [path for path in found if _is_sealed(path)]
    for path in found:
        if path not in sealed:
            shutil.rmtree(path, ignore_errors=True)  # another worker may be removing it, too
    return sealed[-1] if sealed else None


def _is_sealed(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _SEAL).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return True


def checkpoint_step(folder: Path | None) -> int:
    """The optimizer step that a checkpoint's folder is named after; 0 for none."""
    return int(folder.name.rpartition("-")[2]) if folder is not None else 0


class CheckpointSeal(TrainerCallback):
    """Seals each checkpoint when it is complete, and checks the adapter after a resume."""

    def __init__(self, model: PeftModel, resumed_from: Path | None) -> None:
        self._model = model
        self._resumed_from = resumed_from

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._resumed_from is None:
            return
        saved = json.loads((self._resumed_from / _SEAL).read_text())["adapter"]
        loaded = state_digest(adapter_state(self._model))
        if saved != loaded:
            raise ResumeMismatch(
                f"checkpoint {self._resumed_from.name} holds adapter {saved}, but after loading it the adapter is "
                f"{loaded}: the trainer did not restore it. Start the run anew and report the library versions"
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero or args.output_dir is None:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        seal = {"adapter": state_digest(adapter_state(self._model)), "step": state.global_step}
        sync_tree(folder)
        write_atomically(folder / _SEAL, lambda file: file.write(json.dumps(seal).encode()))


class ProgressReport(TrainerCallback):
    """Hands the trainer's figures to the run's progress, on the first worker."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            figures = {key: float(value) for key, value in logs.items()}
            self._report(state.global_step, state.max_steps, figures)


def require_steps(stage: str, global_step: int, examples: int) -> None:
    """Refuses a training that ended without one optimizer step.

    Raises:
        ZeroSteps: the trainer skipped all its data, which it says in a log line only.
    """
    if global_step < 1:
        raise ZeroSteps(f"{stage} finished without one optimizer step over {examples} examples: give it more data")
