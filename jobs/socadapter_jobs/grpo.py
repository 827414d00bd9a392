"""Stage three: group-relative policy optimization on whole investigations.

`InvestigationTrainer` optimises what `Sampler` sampled, and `GrpoMemory` outlives a kill. Starts only from an adapter
that passes the start gate, scores the development split every few steps, keeps the best adapter by utility, and stops
at the first sign of collapse or when its time is up. Runs inside a Ray Train worker, one or several.
"""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig

from socadapter_agent import lean_lora
from socadapter_agent.transformers_engine import TransformersEngine
from socadapter_api.case import Case
from socadapter_api.errors import SpecError
from socadapter_api.manifest import GrpoOutcome
from socadapter_api.model import parse_duration
from socadapter_api.training import EvaluationSpec, GrpoSpec, UtilityWeights
from socadapter_jobs.candidates import DEVELOPMENT, STATE
from socadapter_jobs.checkpoints import CheckpointSeal, Report, checkpoint_step, last_sealed, require_steps
from socadapter_jobs.collapse import SOLVED, CollapseWatch, StepSigns, signs
from socadapter_jobs.data.split import attack_share
from socadapter_jobs.development import DevelopmentScore, score_development, write_scores
from socadapter_jobs.environment import ToolboxOf
from socadapter_jobs.grpo_memory import GrpoMemory
from socadapter_jobs.investigation_trainer import InvestigationTrainer, trajectory_reward
from socadapter_jobs.lean_head import LeanHead
from socadapter_jobs.outages import MOST_PERCENT, require_answers
from socadapter_jobs.policy import save_adapter, training_arguments
from socadapter_jobs.rewarded_alerts import require_a_step, sampling_order
from socadapter_jobs.rewards import class_weights
from socadapter_jobs.rollouts import LoopThread
from socadapter_jobs.sampler import MIN_SCORABLE, Group, Sampler
from socadapter_jobs.workers import gathered

_MICRO_BATCH = 8
_GATE_SAMPLES = 24
"""The start gate samples so many alerts of the development split, and all of it before it refuses."""


@dataclass(frozen=True, slots=True)
class GrpoRun:
    """Everything the stage works on. `folder` keeps its checkpoints, ``best-STEP/`` and ``state.json``."""

    policy: PeftModel
    tokenizer: PreTrainedTokenizerBase
    train: Sequence[Case]
    development: Sequence[Case]
    spec: GrpoSpec
    utility: UtilityWeights
    toolbox_of: ToolboxOf
    folder: Path
    dtype: torch.dtype
    seed: int
    workers: int = 1
    rank: int = 0
    deepspeed: dict[str, Any] | None = None
    max_unscorable_percent: float = EvaluationSpec().max_unscorable_percent
    """Of the development split; a score that leaves out more is compared with none."""
    report: Report = lambda *_: None
    telling: Callable[[int, int, str, int, int], None] = lambda *_: None
    """Takes step, steps, what is investigated there, and how many of how many investigations have ended."""
    callbacks: Sequence[TrainerCallback] = ()
    stopping: Callable[[], bool] = lambda: False
    """Whether one of `callbacks` has asked for a checkpoint and an end: what takes long is left to the next start."""
    loop: LoopThread | None = None
    """The event loop on which `toolbox_of` was opened; None for tools that need none."""
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class GrpoReport:
    """The outcome, and the curves for the report."""

    outcome: GrpoOutcome
    steps: list[dict[str, float]]
    development: list[dict[str, float]]


def train_grpo(run: GrpoRun) -> GrpoReport:
    """Trains the policy; ``state.json`` in `folder` names the folder of the best adapter and its development scores.

    Raises:
        TooFewAlerts: fewer alerts than one step takes.
        SpecError: `alertsPerStep` is no multiple of the workers.
        ZeroSteps: the trainer made no step although none of the guards stopped it.
        ToolOutage: tools failed in too much of the start gate, or in most of a step; called again it goes on.
    """
    _require_enough(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    memory_path = run.folder / STATE
    memory = GrpoMemory.load(memory_path)
    engine = TransformersEngine.around(run.policy, run.tokenizer, max_batch=_slots(run))
    engine.start_worker()
    try:
        with nullcontext(run.loop) if run.loop else LoopThread() as loop:
            stage = _Stage(run, memory, memory_path, engine, loop)
            if refusal := stage.start_gate():
                return GrpoReport(refusal, memory.rows, memory.development)
            outcome = stage.train()
    finally:
        engine.stop_worker()
    return GrpoReport(outcome, memory.rows, memory.development)


def _require_enough(run: GrpoRun) -> None:
    if run.spec.alerts_per_step % run.workers:
        raise SpecError(
            f"grpo.alertsPerStep is {run.spec.alerts_per_step} and compute.workers {run.workers}: a group cannot be "
            "split between workers; make the first a multiple of the second"
        )
    require_a_step(len(run.train), run.spec)


def _slots(run: GrpoRun) -> int:
    return min(64, run.spec.alerts_per_step // run.workers * run.spec.group_size)


class _Stage:
    """The stage's moving parts, tied together for one call of `train_grpo`."""

    def __init__(
        self, run: GrpoRun, memory: GrpoMemory, memory_path: Path, engine: TransformersEngine, loop: LoopThread
    ) -> None:
        self.run, self.memory, self.memory_path = run, memory, memory_path
        self.engine, self.loop = engine, loop
        self.watch = CollapseWatch(start_entropy=memory.start_entropy, start_sequences=memory.start_sequences)
        self.attack_share = attack_share((*run.train, *run.development))
        self.started = run.clock() - memory.spent_s
        self.latest: dict[str, float] = {}

    def start_gate(self) -> GrpoOutcome | None:
        """Scores the adapter that GRPO would start from; the refusal where it is not good enough to learn from."""
        if self.memory.refusal is None:
            score = self._gate_score(self.run.development)
            self.memory.refusal = self._refusal(score)
            self._keep(score)
        if not self.memory.refusal:
            return None
        return GrpoOutcome(status="Refused", reason="StartGate", message=self.memory.refusal)

    def _refusal(self, score: DevelopmentScore) -> str:
        spec = self.run.spec
        if score.auc is None or score.auc < spec.start_auc:
            return f"development AUC is {_figure(score.auc)} and grpo.startAuc {spec.start_auc}"
        valid_percent = self._sampled_valid_percent()
        if valid_percent < spec.start_valid_percent:
            return (
                f"{valid_percent:.0f} % of sampled trajectories end in a verdict and grpo.startValidPercent is "
                f"{spec.start_valid_percent:.0f}"
            )
        return ""

    def _sampled_valid_percent(self) -> float:
        """How many sampled trajectories end in a verdict: of some alerts, and of all where those are too few good."""
        spec, everything = self.run.spec, self.run.development
        some = everything[:: max(1, len(everything) // _GATE_SAMPLES)]
        found = self._gate_score(some, spec.temperature).valid_percent
        if found < spec.start_valid_percent and len(some) < len(everything):  # so few may have been bad luck
            found = self._gate_score(everything, spec.temperature).valid_percent
        return found

    def _gate_score(self, cases: Sequence[Case], temperature: float = 0.0) -> DevelopmentScore:
        """A score that the start gate may refuse by: a refusal is for good, and an outage is not."""
        score = self.score(0, cases, temperature)
        allowed_percent = min(self.run.max_unscorable_percent, MOST_PERCENT)
        require_answers([case.outage for case in score.cases], allowed_percent, "the start gate of GRPO")
        return score

    def score(self, step: int, cases: Sequence[Case], temperature: float = 0.0) -> DevelopmentScore:
        run = self.run
        what = "development" if step else "start gate, sampled" if temperature else "start gate"

        def told(done: int) -> None:
            self._tell(step, what, min(done * run.workers, len(cases)), len(cases))

        self.engine.forget()
        own = list(cases)[run.rank :: run.workers]
        return score_development(
            step,
            own,
            self.engine,
            run.toolbox_of,
            run.spec,
            run.utility,
            self.loop,
            temperature=temperature,
            seed=run.seed + step,
            attack_share=self.attack_share,
            gather=gathered,
            done=told,
        )

    def _tell(self, step: int, what: str, done: int, of: int) -> None:
        if self.run.rank == 0:
            self.run.telling(step, self.run.spec.steps, what, done, of)

    def _keep(self, score: DevelopmentScore) -> None:
        """Notes a score; where it is the best so far, keeps the adapter with its scored cases.

        Utilities over too different cases do not compare: two easy ones that were left would be the best for good.
        """
        self.memory.development.append(score.row())
        comparable = score.unscorable_percent <= self.run.max_unscorable_percent
        if comparable and score.utility > self.memory.best_utility:
            self.memory.best_utility, self.memory.best_step = score.utility, score.step
            self.memory.best, self.memory.best_digest = self._write_best(score)
        self._remember()
        if self.run.rank == 0:
            self._drop_old_bests()

    def _write_best(self, score: DevelopmentScore) -> tuple[str, str | None]:
        """Writes adapter and scores beside those that ``state.json`` names, which a kill must leave whole.

        Returns the folder's name and, on the first worker, which remembers it, the adapter's digest.
        """
        name = f"best-{score.step}"
        adapter: str | None = None
        if name == self.memory.best:  # a resumed run made this step again
            name += "-again"
        if self.run.rank == 0:
            folder = self.run.folder / name
            shutil.rmtree(folder, ignore_errors=True)
            adapter = save_adapter(self.run.policy, folder)
            write_scores(folder / DEVELOPMENT, score)
        return name, adapter

    def _drop_old_bests(self) -> None:
        for folder in self.run.folder.glob("best-*"):
            if folder.name != self.memory.best:
                shutil.rmtree(folder, ignore_errors=True)

    def _remember(self) -> None:
        self.memory.spent_s = self.run.clock() - self.started
        self.memory.window = list(self.watch.window)
        self.memory.start_entropy, self.memory.start_sequences = self.watch.start_entropy, self.watch.start_sequences
        if self.run.rank == 0:
            self.memory.save(self.memory_path)

    def train(self) -> GrpoOutcome:
        run = self.run
        if self.memory.stop is not None:  # killed between its own end and the stage's marker
            return self._outcome(int(self.memory.rows[-1]["step"]))
        sampler = Sampler(
            engine=self.engine,
            cases=run.train,
            spec=run.spec,
            weights=class_weights([case.label for case in run.train], run.spec.reward.class_balanced),
            toolbox_of=run.toolbox_of,
            loop=self.loop,
            seed=run.seed,
            after=lambda groups, refilled: self.sampled(trainer.state.global_step + 1, groups, refilled),
            telling=lambda what, done, of: self._tell(
                trainer.state.global_step, what, done * run.workers, of * run.workers
            ),
        )
        resume = last_sealed(run.folder)
        self.memory.forget_after(checkpoint_step(resume))
        self.watch.window.extend(self.memory.window)
        trainer = InvestigationTrainer(
            model=run.policy,
            args=self._arguments(),
            reward_funcs=trajectory_reward,
            train_dataset=Dataset.from_list(sampler.dataset_rows()).select(
                sampling_order(len(run.train), run.spec, run.seed)
            ),
            processing_class=run.tokenizer,
            rollout_func=sampler,
            callbacks=[CheckpointSeal(run.policy, resume), *run.callbacks, _StageCallback(self)],
        )
        trainer.head = LeanHead(run.policy, run.spec.temperature)
        lean_lora.fuse(run.policy)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        steps = trainer.state.global_step
        require_steps("grpo", steps, len(run.train))
        if not self._scored(steps) and not self._goes_on():
            self._keep(self.score(steps, run.development))
        return self._outcome(steps)

    def _outcome(self, steps: int) -> GrpoOutcome:
        status, reason, message = self.memory.stop or ("Completed", "", "")
        return GrpoOutcome.model_validate(
            {"status": status, "reason": reason, "message": message, "steps": steps, "best_step": self.memory.best_step}
        )

    def _arguments(self) -> GRPOConfig:
        run, spec = self.run, self.run.spec
        rollouts = spec.alerts_per_step // run.workers * spec.group_size
        micro = math.gcd(rollouts, _MICRO_BATCH)
        return GRPOConfig(
            output_dir=str(run.folder),
            learning_rate=spec.learning_rate,
            lr_scheduler_type="constant",  # a warm-up's first step has rate 0: a fifth of a short run for nothing
            max_grad_norm=0.5,
            max_steps=spec.steps,
            num_generations=spec.group_size,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=rollouts // micro,
            steps_per_generation=rollouts // micro,
            max_completion_length=spec.max_context_tokens,
            temperature=spec.temperature,
            loss_type="dapo",
            scale_rewards="none",
            epsilon_high=0.28,
            beta=spec.kl_coefficient,
            entropy_coef=spec.entropy_coefficient,
            save_steps=spec.eval_every,
            shuffle_dataset=False,  # TRL would begin a resumed pass in the first one's order
            seed=run.seed,
            deepspeed=run.deepspeed,
            **training_arguments(run.dtype),
        )

    def sampled(self, step: int, groups: list[Group], refilled: int) -> None:
        """Takes note of a step's trajectories, on every worker alike, and looks for collapse.

        Raises:
            ToolOutage: tools failed in most of them.
        """
        own = _observed(groups, refilled)
        everyone = gathered([own])
        require_answers([out for part in everyone for out in part["outages"]], MOST_PERCENT, f"step {step} of GRPO")
        trajectories = [t for part in everyone for t in part["trajectories"]]
        labels = [label for part in everyone for label in part["labels"]]
        entropy = sum(part["nll"] for part in everyone) / max(1, sum(part["tokens"] for part in everyone))
        zero = sum(part["dull"] for part in everyone) / sum(part["groups"] for part in everyone)
        accuracy = _mean([float(t.verdict is label) for t, label in zip(trajectories, labels, strict=True)])
        seen: StepSigns = signs(trajectories, labels, zero, entropy, step)
        totals = [value for part in everyone for value in part["rewards"]]
        self.latest = {
            "reward": _mean([sum(parts) for parts in totals]),
            "verdict_reward": _mean([parts[0] for parts in totals]),
            "shaping": _mean([parts[1] for parts in totals]),
            "penalty": -_mean([parts[2] for parts in totals]),
            "accuracy": accuracy,
            "zero_variance": zero,
            "refilled": float(sum(part["refilled"] for part in everyone)),
            "entropy": entropy,
            "calls": _mean([float(len(t.calls)) for t in trajectories]),
            "unscorable": float(sum(part["unscorable"] for part in everyone)),
        }
        if found := self.watch.see(seen):
            self.memory.stop = ("Completed" if found[0] == SOLVED else "Aborted", *found)

    def resumed(self, step: int) -> None:
        """At a checkpoint: makes the score that a stop put off."""
        if step and step % self.run.spec.eval_every == 0 and not self._scored(step):
            self._keep(self.score(step, self.run.development))

    def _scored(self, step: int) -> bool:
        return any(row["step"] == step for row in self.memory.development)

    def _goes_on(self) -> bool:
        """Whether the next start trains on, and scores what a stop put off."""
        return self.run.stopping() and self.memory.stop is None

    def stepped(self, step: int) -> None:
        """After an optimizer step: curve, development score, time limit. A stop waits for none but the curve."""
        self.memory.rows.append({"step": float(step), **self.latest})
        if self.run.rank == 0:
            self.run.report(step, self.run.spec.steps, self.latest)
        if self.run.stopping():
            self._remember()
            return
        if step % self.run.spec.eval_every == 0:
            self._keep(self.score(step, self.run.development))
        else:
            self._remember()
        limit = self.run.spec.time_limit
        if self.memory.stop is None and limit and self._late(parse_duration(limit).total_seconds()):
            self.memory.stop = ("TimeLimit", "TimeLimit", f"stopped after grpo.timeLimit {limit}")
            self._remember()

    def _late(self, limit_s: float) -> bool:
        return any(gathered([self.run.clock() - self.started > limit_s]))


class _StageCallback(TrainerCallback):
    """Calls the stage after each step and stops the trainer where the stage says so.

    Comes after whoever asks for a stop: a checkpoint is written once all callbacks have seen the step.
    """

    def __init__(self, stage: _Stage) -> None:
        self._stage = stage

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stage.resumed(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stage.stepped(state.global_step)
        if self._stage.memory.stop is not None:
            control.should_training_stop = True


def _observed(groups: list[Group], refilled: int) -> dict[str, Any]:
    """What a worker tells the others of its groups. What an outage took out is counted, and says nothing else."""
    everything = [i.trajectory for group in groups for i in group.investigations]
    answered = [(group.case.label, i) for group in groups for i in group.investigations if not i.trajectory.outage]
    investigations = [i for _, i in answered]
    judged = [group for group in groups if sum(not i.trajectory.outage for i in group.investigations) >= MIN_SCORABLE]
    sampled = [
        logprob
        for i in investigations
        if i.tokens is not None
        for logprob, mask in zip(i.tokens.logprobs, i.tokens.mask, strict=True)
        if mask
    ]
    return {
        "trajectories": [i.trajectory for i in investigations],
        "labels": [label for label, _ in answered],
        "rewards": [(r.verdict, r.shaping, r.penalty) for group in groups for r in group.rewards if r is not None],
        "dull": sum(not group.teaches for group in judged),
        "groups": len(judged),
        "outages": [trajectory.outage for trajectory in everything],
        "unscorable": sum(not trajectory.scorable for trajectory in everything),
        "refilled": refilled,
        "nll": -sum(sampled),
        "tokens": len(sampled),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _figure(value: float | None) -> str:
    return "not computable" if value is None else f"{value:.2f}"
