"""The stages that train, sft and grpo, as they run inside each Ray Train worker of theirs.

They tie a run's workspace to `train_sft` and `train_grpo` and guard both: the base stays frozen, the tools stay as
they were, a stop leaves a checkpoint. `stages` calls them.
"""

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from socadapter_agent.chat_format import chat_format
from socadapter_api.errors import BaseChanged, RunInterrupted
from socadapter_api.manifest import Stage
from socadapter_api.training import RunSpec, Strategy
from socadapter_jobs import prepare as preparation
from socadapter_jobs.candidates import continued_from, parent_version, sft_folder
from socadapter_jobs.environment import open_environment
from socadapter_jobs.examples import TokenWeights, encode_all
from socadapter_jobs.grpo import GrpoReport, GrpoRun, train_grpo
from socadapter_jobs.handover import require_left, require_same_chat
from socadapter_jobs.number_format import decided_dtype
from socadapter_jobs.policy import (
    adapter_state,
    base_weights_digest,
    load_policy,
    load_tokenizer,
    parameter_counts,
    save_adapter,
    state_digest,
)
from socadapter_jobs.rewarded_alerts import rewarded
from socadapter_jobs.rollouts import LoopThread
from socadapter_jobs.sft import train_sft
from socadapter_jobs.workers import gathered
from socadapter_jobs.workspace import LiveMetrics, Workspace

Facts = dict[str, Any]
T = TypeVar("T")


class Interrupt(TrainerCallback):
    """Ends training with a checkpoint once someone asked the run to stop."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.seen = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # A worker that stopped a step before the others would leave them waiting for it.
        if any(gathered([self._workspace.stop_request.exists()])):
            self.seen = control.should_save = control.should_training_stop = True

    def raise_if_seen(self) -> None:
        """Raises `RunInterrupted` after a stop, so that the stage gets no marker."""
        if self.seen:
            raise RunInterrupted("stopped on request after a checkpoint; the next start goes on from there")


def deepspeed_config(spec: RunSpec) -> Facts | None:
    """The DeepSpeed configuration that the strategy asks for; None for plain data parallelism."""
    if spec.compute.strategy is not Strategy.ZERO2:
        return None
    if not spec.compute.gpus_per_worker:
        _compile_nothing()
    return {
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
    }


def _compile_nothing() -> None:
    """Keeps DeepSpeed from compiling a transport for CPUs: a minute, and a compiler that an image need not have."""
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _start(workspace: Workspace, rank: int) -> tuple[Any, Any, torch.dtype]:
    """Tokenizer, policy and number format; the policy as the run is to start."""
    spec = workspace.spec
    base = preparation.pinned_base(workspace)
    dtype = decided_dtype(workspace, rank)
    parent = parent_version(spec, base.digest) if continued_from(spec) else None
    start = parent.folder if parent else None
    return load_tokenizer(base), load_policy(base, spec.lora, dtype=dtype, seed=spec.seed, start_from=start), dtype


def sft_stage(workspace: Workspace, rank: int) -> Facts:
    """Teaches the adapter the experts' investigations."""
    spec = workspace.spec
    tokenizer, policy, dtype = _start(workspace, rank)
    counts = parameter_counts(policy)
    chat = chat_format(tokenizer)
    if spec.sft.epochs == 0:
        if rank > 0:
            return {}
        adapter = save_adapter(policy, sft_folder(workspace))
        return {"steps": 0, "adapter": adapter, "parameters": counts, "template": chat.digest}
    experts = _sample(preparation.read_experts(workspace), spec.sft.max_examples, spec.seed)
    weighing = TokenWeights(spec.sft.verdict_weight, spec.sft.tool_weight, spec.sft.summary_weight)
    tools = preparation.read_tools(workspace)
    examples = encode_all(experts, chat, tools, spec.sft.max_length_tokens, weighing, spec.sft.summary_percent)
    frozen = base_weights_digest(policy)
    interrupt = Interrupt(workspace)
    live = LiveMetrics(workspace, Stage.SFT)
    outcome = train_sft(
        policy,
        tokenizer,
        examples,
        spec.sft,
        folder=workspace.scratch / "sft",
        dtype=dtype,
        seed=spec.seed,
        workers=spec.compute.workers,
        deepspeed=deepspeed_config(spec),
        report=live,
        callbacks=[interrupt],
    )
    live.settle()
    interrupt.raise_if_seen()
    _require_frozen(frozen, base_weights_digest(policy))
    if rank == 0:
        workspace.note("sft_history.json", outcome.history)
        adapter = save_adapter(policy, sft_folder(workspace))
        return {
            "steps": outcome.steps,
            "loss": outcome.final_loss,
            "adapter": adapter,
            "parameters": counts,
            "template": chat.digest,
            "longest": max(len(example.input_ids) for example in examples),
        }
    return {}


def _sample(rows: Sequence[T], most: int | None, seed: int) -> Sequence[T]:
    """A seeded sample of at most `most` rows, in their order."""
    if most is None or len(rows) <= most:
        return rows
    chosen = random.Random(seed).sample(range(len(rows)), most)
    return [rows[index] for index in sorted(chosen)]


def _require_frozen(before: str, after: str) -> None:
    if before != after:
        raise BaseChanged(
            f"the frozen base had digest {before} before training and has {after} after it: the adapter would not be "
            "what serving puts on the base. Nothing is published"
        )


def grpo_stage(workspace: Workspace, rank: int) -> Facts:
    """Sharpens the adapter on alerts with verified verdicts; leaves the better of before and after."""
    spec = workspace.spec
    folder = workspace.scratch / "grpo"
    base = preparation.pinned_base(workspace)
    dtype = decided_dtype(workspace, rank)
    tokenizer = load_tokenizer(base)
    require_same_chat(workspace, chat_format(tokenizer))
    start = sft_folder(workspace)
    policy = load_policy(base, spec.lora, dtype=dtype, seed=spec.seed, start_from=start)
    taught = workspace.store.finished_stage(Stage.SFT) or {}
    require_left(start, taught.get("adapter"), state_digest(adapter_state(policy)))
    train, development = (preparation.read_set(workspace, name) for name in ("train", "development"))
    frozen = base_weights_digest(policy)
    interrupt = Interrupt(workspace)
    specs = preparation.read_tools(workspace)
    live = LiveMetrics(workspace, Stage.GRPO)
    with LoopThread() as loop:
        environment = open_environment(spec.tools, train, spec.data.replay_miss, specs)
        toolbox_of = loop.run(environment.__aenter__())
        try:
            report = train_grpo(
                GrpoRun(
                    policy=policy,
                    tokenizer=tokenizer,
                    train=rewarded(train, spec.grpo),
                    development=development,
                    spec=spec.grpo,
                    utility=spec.evaluation.utility,
                    toolbox_of=toolbox_of,
                    folder=folder,
                    dtype=dtype,
                    seed=spec.seed,
                    workers=spec.compute.workers,
                    rank=rank,
                    deepspeed=deepspeed_config(spec),
                    max_unscorable_percent=spec.evaluation.max_unscorable_percent,
                    report=live,
                    telling=live.say,
                    callbacks=(interrupt,),
                    stopping=lambda: interrupt.seen,
                    loop=loop,
                )
            )
        finally:
            loop.run(environment.__aexit__(None, None, None))
    live.settle()
    interrupt.raise_if_seen()
    _require_frozen(frozen, base_weights_digest(policy))
    return _grpo_facts(workspace, report, rank)


def _grpo_facts(workspace: Workspace, report: GrpoReport, rank: int) -> Facts:
    if rank == 0:
        workspace.note("grpo_history.json", {"steps": report.steps, "development": report.development})
    return {"grpo": report.outcome.model_dump(mode="json")}
