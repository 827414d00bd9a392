"""The five stages as they run inside a Ray Train worker.

Each takes the workspace, does its work from and into it, and returns the facts of its marker. Which stages run, and in
what order, is `run`'s business.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from socadapter_agent.base_model import default_cache
from socadapter_agent.chat_format import chat_format
from socadapter_api import digest
from socadapter_api.errors import BaseChanged, RunInterrupted, SecretNotFound, ToolSchemaMismatch
from socadapter_api.manifest import GrpoOutcome, Outcome, RunResult, Stage
from socadapter_api.training import Continuation, RunSpec, Strategy
from socadapter_jobs import prepare as preparation
from socadapter_jobs.environment import open_environment
from socadapter_jobs.evaluation import evaluate_run, flat_metrics
from socadapter_jobs.examples import TokenWeights, encode_all
from socadapter_jobs.grpo import GrpoReport, GrpoRun, train_grpo
from socadapter_jobs.policy import (
    base_weights_digest,
    load_policy,
    load_tokenizer,
    parameter_counts,
    precision_of,
    save_adapter,
)
from socadapter_jobs.provenance import code_digest, config_digest, surroundings
from socadapter_jobs.report.model_card import model_card
from socadapter_jobs.report.page import render
from socadapter_jobs.rollouts import LoopThread
from socadapter_jobs.sft import train_sft
from socadapter_jobs.workspace import LiveMetrics, Workspace, finite
from socadapter_store import cache, publication, signatures

Facts = dict[str, Any]

SFT_ADAPTER = "sft/adapter"
CANDIDATE = "candidate"


class Interrupt(TrainerCallback):
    """Ends training with a checkpoint once someone asked the run to stop."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.seen = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._workspace.stop_request.exists():
            self.seen = control.should_save = control.should_training_stop = True

    def raise_if_seen(self) -> None:
        """Raises `RunInterrupted` after a stop, so that the stage gets no marker."""
        if self.seen:
            raise RunInterrupted("stopped on request after a checkpoint; the next start goes on from there")


def deepspeed_config(spec: RunSpec) -> Facts | None:
    """The DeepSpeed configuration that the strategy asks for; None for plain data parallelism."""
    if spec.compute.strategy is not Strategy.ZERO2:
        return None
    return {
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
    }


def prepare_stage(workspace: Workspace, rank: int) -> Facts:
    """Pins, checks and splits the data."""
    facts = preparation.prepare(workspace, time.time())
    return {"digests": facts["digests"], "counts": facts["counts"], "base": facts["base"]["digest"]}


def _start(workspace: Workspace, seed: int) -> tuple[Any, Any, torch.dtype]:
    """Tokenizer, policy and number format; the policy as the run is to start."""
    spec = workspace.spec
    base = preparation.pinned_base(workspace)
    dtype = _dtype(workspace)
    parent = _parent_adapter(spec) if spec.continue_from is Continuation.PARENT else None
    return load_tokenizer(base), load_policy(base, spec.lora, dtype=dtype, seed=seed, start_from=parent), dtype


def _dtype(workspace: Workspace) -> torch.dtype:
    """The number format, decided once a run: a probe that changed its mind half way would change the numbers."""
    kept = workspace.noted("precision.json")
    if kept is None:
        kept = str(precision_of(workspace.spec.compute.precision)).removeprefix("torch.")
        workspace.note("precision.json", kept)
    found = getattr(torch, str(kept))
    return torch.bfloat16 if found is torch.bfloat16 else torch.float32


def _parent_adapter(spec: RunSpec) -> Path | None:
    """The verified adapter folder of the version that this run continues from or competes with."""
    if spec.parent is None:
        return None
    keys = [signatures.public_key_of(Path(spec.signing_key))] if spec.signing_key else []
    folder, _ = cache.fetch_verified(spec.parent.uri, default_cache() / "versions", spec.parent.digest, keys)
    return folder / "adapter"


def sft_stage(workspace: Workspace, rank: int) -> Facts:
    """Teaches the adapter the experts' investigations."""
    spec = workspace.spec
    tokenizer, policy, dtype = _start(workspace, spec.seed)
    counts = parameter_counts(policy)
    if spec.sft.epochs == 0:
        return {"steps": 0, "adapter": save_adapter(policy, workspace.scratch / SFT_ADAPTER), "parameters": counts}
    experts = preparation.read_experts(workspace)
    if spec.sft.max_examples is not None:
        experts = experts[: spec.sft.max_examples]
    chat = chat_format(tokenizer)
    weighing = TokenWeights(spec.sft.verdict_weight, spec.sft.summary_weight)
    examples = encode_all(experts, chat, preparation.read_tools(workspace), spec.sft.max_length_tokens, weighing)
    frozen = base_weights_digest(policy)
    interrupt = Interrupt(workspace)
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
        report=LiveMetrics(workspace, Stage.SFT),
        callbacks=[interrupt],
    )
    interrupt.raise_if_seen()
    _require_frozen(frozen, base_weights_digest(policy))
    if rank == 0:
        workspace.note("sft_history.json", outcome.history)
        adapter = save_adapter(policy, workspace.scratch / SFT_ADAPTER)
        return {
            "steps": outcome.steps,
            "loss": outcome.final_loss,
            "adapter": adapter,
            "parameters": counts,
            "template": chat.digest,
            "longest": max(len(example.input_ids) for example in examples),
        }
    return {}


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
    if spec.grpo.steps == 0:
        outcome = GrpoOutcome(status="Skipped", reason="NotAsked", message="grpo.steps is 0")
        return {"grpo": outcome.model_dump(mode="json")}
    base = preparation.pinned_base(workspace)
    dtype = _dtype(workspace)
    policy = load_policy(base, spec.lora, dtype=dtype, seed=spec.seed, start_from=workspace.scratch / SFT_ADAPTER)
    train, development = (preparation.read_set(workspace, name) for name in ("train", "development"))
    frozen = base_weights_digest(policy)
    interrupt = Interrupt(workspace)
    specs = preparation.read_tools(workspace)
    with LoopThread() as loop:
        environment = open_environment(spec.tools, train, spec.data.replay_miss, None if spec.tools else specs)
        toolbox_of = loop.run(environment.__aenter__())
        try:
            if toolbox_of(train[0]).specs != specs:
                raise ToolSchemaMismatch("the tools changed their schemas since the run was prepared: start it anew")
            report = train_grpo(
                GrpoRun(
                    policy=policy,
                    tokenizer=load_tokenizer(base),
                    train=[case for case in train if case.decidable or spec.grpo.reward.escalated < 0],
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
                    report=LiveMetrics(workspace, Stage.GRPO),
                    callbacks=(interrupt,),
                    loop=loop,
                )
            )
        finally:
            loop.run(environment.__aexit__(None, None, None))
    interrupt.raise_if_seen()
    _require_frozen(frozen, base_weights_digest(policy))
    return _grpo_facts(workspace, report, rank)


def _grpo_facts(workspace: Workspace, report: GrpoReport, rank: int) -> Facts:
    if rank == 0:
        workspace.note("grpo_history.json", {"steps": report.steps, "development": report.development})
    return {"grpo": report.outcome.model_dump(mode="json")}


def candidate_folder(workspace: Workspace) -> Path:
    """The adapter that the run would publish: GRPO's best where there is one, else what SFT reached."""
    best = workspace.scratch / "grpo" / "best"
    return best if best.is_dir() else workspace.scratch / SFT_ADAPTER


def evaluate_stage(workspace: Workspace, rank: int) -> Facts:
    """Judges the candidate and leaves ``evaluation.json`` and ``report.html``."""
    spec = workspace.spec
    live = LiveMetrics(workspace, Stage.EVALUATE)
    candidate = candidate_folder(workspace)
    champion = _parent_adapter(spec)
    evaluation = evaluate_run(workspace, candidate, champion, lambda done, of: live(done, of, {}))
    evaluation |= _circumstances(workspace, candidate)
    evaluation = finite(evaluation)
    workspace.note("evaluation.json", evaluation)
    workspace.store.write_json("evaluation.json", evaluation)
    workspace.store.write("report.html", render(evaluation, None, None).encode())
    return {"evaluation": digest.of_json(evaluation)}


def _circumstances(workspace: Workspace, candidate: Path) -> Facts:
    """What the report says beside the figures: data, curves, the adapter's size, what became of GRPO."""
    facts = preparation.read_facts(workspace)
    sft = workspace.store.finished_stage(Stage.SFT) or {}
    grpo = (workspace.store.finished_stage(Stage.GRPO) or {}).get("grpo")
    curves = workspace.noted("grpo_history.json") or {"steps": [], "development": []}
    counts = sft.get("parameters", {})
    config = json.loads((candidate / "adapter_config.json").read_text())
    return {
        "learning": {
            "sft": workspace.noted("sft_history.json") or [],
            "grpo": curves["steps"],
            "development": curves["development"],
        },
        "data": {"counts": facts["counts"], "sources": facts["sources"], "checks": facts["checks"]},
        "adapter": {
            "parameters": counts.get("adapter"),
            "base_parameters": counts.get("base"),
            "bytes": (candidate / "adapter_model.safetensors").stat().st_size,
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "target_modules": sorted(config["target_modules"]),
        },
        "grpo": grpo,
        "base": facts["base"],
        "seconds": {stage.value: _seconds(workspace, stage) for stage in Stage},
    }


def _seconds(workspace: Workspace, stage: Stage) -> float | None:
    marker = workspace.store.finished_stage(stage)
    return marker.get("seconds") if marker else None


def publish_stage(workspace: Workspace, rank: int) -> Facts:
    """Publishes the candidate where every gate passed; a failed gate is a finished run with its evidence."""
    spec = workspace.spec
    evaluation: Facts = workspace.noted("evaluation.json") or {}
    result = _result(workspace, evaluation)
    if failed := [gate for gate in result.gates if not gate.passed]:
        words = "; ".join(f"{gate.metric} {gate.rule}: {gate.value}" for gate in failed)
        result = result.model_copy(
            update={"outcome": Outcome.GATE_FAILED, "reason": "GateFailed", "message": f"not published: {words}"}
        )
        workspace.store.write("report.html", render(evaluation, result.model_dump(mode="json"), None).encode())
        workspace.store.finish(result)
        return {"outcome": result.outcome.value}
    if spec.signing_key is None or not Path(spec.signing_key).is_file():
        raise SecretNotFound(
            f"the run has no signing key (signingKey: {spec.signing_key!r}): name one in signing.keySecretRef"
        )
    local = workspace.scratch / CANDIDATE
    _lay_out(workspace, local, evaluation)
    published = publication.publish(
        local, _manifest_fields(workspace, evaluation), result, workspace.store, Path(spec.signing_key), spec.max_rank
    )
    return {"outcome": published.result.outcome.value, "digest": published.result.digest}


def _result(workspace: Workspace, evaluation: Facts) -> RunResult:
    spec = workspace.spec
    facts = preparation.read_facts(workspace)
    return RunResult(
        run_id=spec.run_id,
        context=spec.context,
        outcome=Outcome.PUBLISHED,
        metrics=flat_metrics(evaluation),
        gates=tuple(evaluation["gates"]),
        grpo=GrpoOutcome.model_validate(evaluation["grpo"]) if evaluation["grpo"] else None,
        inputs=_inputs(facts),
        seconds=sum(_seconds(workspace, stage) or 0.0 for stage in Stage),
    )


def _inputs(facts: Facts) -> dict[str, str]:
    inputs = {f"{source['name']}:{Path(source['uri']).name}": source["digest"] for source in facts["sources"]}
    return inputs | {"base": facts["base"]["digest"]}


def _lay_out(workspace: Workspace, local: Path, evaluation: Facts) -> None:
    """The adapter's folder as it will be published: weights, configuration, model card; nothing else."""
    target = local / "adapter"
    target.mkdir(parents=True, exist_ok=True)
    source = candidate_folder(workspace)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (target / name).write_bytes((source / name).read_bytes())
    facts = preparation.read_facts(workspace)["base"]
    _name_base(target / "adapter_config.json", facts["uri"])
    if not (target / "README.md").is_file():
        card = model_card(evaluation, base_model=facts["uri"], base_digest=facts["digest"])
        (target / "README.md").write_text(card)


def _name_base(config: Path, uri: str) -> None:
    """Replaces the path of this machine's copy of the base by the name that the spec gives it."""
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"base_model_name_or_path": uri}, indent=2, sort_keys=True) + "\n")


def _manifest_fields(workspace: Workspace, evaluation: Facts) -> Facts:
    spec = workspace.spec
    facts = preparation.read_facts(workspace)
    tokenizer = load_tokenizer(preparation.pinned_base(workspace))
    parent = spec.parent
    return {
        "context": spec.context,
        "namespace": spec.namespace,
        "run_id": spec.run_id,
        "number": spec.version_number,
        "base_uri": facts["base"]["uri"],
        "base_digest": facts["base"]["digest"],
        "base_parameters": evaluation["adapter"]["base_parameters"],
        "template_digest": chat_format(tokenizer).digest,
        "tools_digest": facts["tools_digest"],
        "calibration": {k: v for k, v in evaluation["calibration"].items() if k != "bins"},
        "budgets": {
            "max_turns": spec.grpo.max_turns,
            "max_calls": spec.grpo.max_calls,
            "max_turn_tokens": spec.grpo.max_turn_tokens,
            "max_summary_tokens": spec.grpo.max_summary_tokens,
            "max_context_tokens": spec.grpo.max_context_tokens,
        },
        "parent": parent.name if parent else "",
        "parent_digest": parent.digest if parent else None,
        "inputs": _inputs(facts),
        "config_digest": config_digest(spec),
        "code_digest": code_digest(),
        "metrics": flat_metrics(evaluation),
        "grpo": evaluation["grpo"],
        "provenance": surroundings(spec, evaluation["seconds"]) | {"tools": facts["tools"]},
    }


STAGES: dict[Stage, Callable[[Workspace, int], Facts]] = {
    Stage.PREPARE: prepare_stage,
    Stage.SFT: sft_stage,
    Stage.GRPO: grpo_stage,
    Stage.EVALUATE: evaluate_stage,
    Stage.PUBLISH: publish_stage,
}


def set_threads(cpus: float) -> None:
    """Gives torch the processors that the worker was granted."""
    torch.set_num_threads(max(1, int(cpus)))
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(cpus)))
