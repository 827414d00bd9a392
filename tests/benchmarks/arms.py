"""The arms that benchmarks compare: adapters trained and judged in this process, by the code that a run uses.

An arm is a folder with its checkpoints, its adapter and `done.json`; an interrupted arm goes on from its last
checkpoint, a finished one is read back. Times are summed over interruptions. Used by `learning`, `rank` and
`real_alerts`.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tests.benchmarks.ledger import keep, kept
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from socadapter_agent.base_model import BUILTIN, BaseModel, resolve_base
from socadapter_agent.chat_format import chat_format
from socadapter_agent.precision import dtype_of
from socadapter_agent.tools import GuardedToolbox, ToolAnswer, ToolSpec
from socadapter_agent.transformers_engine import TransformersEngine
from socadapter_api.case import Alert, Case
from socadapter_api.training import BaseModelRef, GrpoSpec, LoraSpec, Precision, SftSpec, UtilityWeights
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_jobs.candidates import best_of_grpo
from socadapter_jobs.checkpoints import Report
from socadapter_jobs.environment import ToolboxOf
from socadapter_jobs.examiner import MAX_BATCH, Examiner
from socadapter_jobs.examples import Example, TokenWeights, encode_all
from socadapter_jobs.grpo import GrpoRun, train_grpo
from socadapter_jobs.policy import load_policy, load_tokenizer, parameter_counts, save_adapter
from socadapter_jobs.rewarded_alerts import rewarded
from socadapter_jobs.rollouts import LoopThread
from socadapter_jobs.scoring.scored_case import ScoredCase
from socadapter_jobs.sft import train_sft
from socadapter_range.toolbox import RangeToolbox

DONE = "done.json"
ADAPTER_FOLDER = "adapter"
Done = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all arms of a benchmark share: the base and its number format."""

    base: BaseModel
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype

    @classmethod
    def on(cls, uri: str, folder: Path) -> "Bench":
        """The base at `uri`. The number format is decided once per folder of results."""
        disable_progress_bar()
        base = resolve_base(BaseModelRef(uri=uri))
        noted = kept(folder / "precision.json")
        name = noted or str(dtype_of(Precision.AUTO)).removeprefix("torch.")
        if noted is None:
            keep(folder / "precision.json", name)
        return cls(base, load_tokenizer(base), torch.bfloat16 if name == "bfloat16" else torch.float32)


@dataclass(frozen=True, slots=True)
class Ground:
    """What the arms of one comparison stand on: the same cases, experts, tools and seed."""

    train: tuple[Case, ...]
    development: tuple[Case, ...]
    experts: tuple[ExpertTrajectory, ...]
    specs: tuple[ToolSpec, ...]
    toolbox_of: ToolboxOf
    lora: LoraSpec
    seed: int


class RangeTools:
    """The range's tools in this process as the agent's toolbox."""

    def __init__(self, telemetry: Path) -> None:
        self._inner = RangeToolbox(telemetry)
        self.specs = tuple(ToolSpec(s.name, s.description, s.parameters) for s in self._inner.specs)

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        answer = await self._inner.call(tool, args, alert)
        return ToolAnswer(answer.text, answer.outcome, answer.seconds)

    def guarded(self) -> ToolboxOf:
        """One guarded toolbox for all cases."""
        toolbox = GuardedToolbox(self)
        return lambda _case: toolbox


class Stopwatch(TrainerCallback):
    """Sums a training's seconds over its interruptions, and ends it when its time is up."""

    def __init__(self, path: Path, limit_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._limit_s, self._clock = path, limit_s, clock
        self._before: float = kept(path) or 0.0
        self._began = clock()

    @property
    def spent_s(self) -> float:
        return self._before + self._clock() - self._began

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._began = self._clock()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        keep(self._path, self.spent_s)
        if self._limit_s is not None and self.spent_s >= self._limit_s:
            control.should_training_stop = True


@contextmanager
def _log(path: Path) -> Iterator[None]:
    """Sends what the trainer prints to a file, so that the lines about progress stand alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream, redirect_stdout(stream):
        yield


def encoded(bench: Bench, ground: Ground, spec: SftSpec) -> list[Example]:
    """The experts' investigations as token rows."""
    weighing = TokenWeights(spec.verdict_weight, spec.tool_weight, spec.summary_weight)
    chat = chat_format(bench.tokenizer)
    return encode_all(ground.experts, chat, ground.specs, spec.max_length_tokens, weighing, spec.summary_percent)


def supervised(
    bench: Bench,
    ground: Ground,
    folder: Path,
    spec: SftSpec,
    *,
    start_from: Path | None = None,
    limit_s: float | None = None,
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """An SFT arm in `folder`: a new adapter, or the one in `start_from` trained on, for at most `limit_s` seconds."""
    if (facts := kept(folder / DONE)) is not None:
        return dict(facts)
    policy = load_policy(bench.base, ground.lora, dtype=bench.dtype, seed=ground.seed, start_from=start_from)
    examples = encoded(bench, ground, spec)
    watch = Stopwatch(folder / "spent.json", limit_s)
    with _log(folder / "trainer.log"):
        outcome = train_sft(
            policy,
            bench.tokenizer,
            examples,
            spec,
            folder=folder / "checkpoints",
            dtype=bench.dtype,
            seed=ground.seed,
            report=report,
            callbacks=(watch,),
        )
    save_adapter(policy, folder / ADAPTER_FOLDER)
    counts = parameter_counts(policy)
    facts = {
        "seconds": watch.spent_s,
        "steps": outcome.steps,
        "epochs": outcome.steps * spec.batch_size / len(examples),
        "examples": len(examples),
        "tokens_per_example": sum(len(example.input_ids) for example in examples) / len(examples),
        "loss": outcome.final_loss,
        "parameters": counts,
        "adapter_mb": (folder / ADAPTER_FOLDER / "adapter_model.safetensors").stat().st_size / 1e6,
    }
    keep(folder / DONE, facts)
    return facts


def reinforced(
    bench: Bench,
    ground: Ground,
    folder: Path,
    spec: GrpoSpec,
    *,
    start_from: Path,
    utility: UtilityWeights,
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """A GRPO arm in `folder` from the adapter in `start_from`; its adapter is the best on the development set."""
    if (facts := kept(folder / DONE)) is not None:
        return dict(facts)
    policy = load_policy(bench.base, ground.lora, dtype=bench.dtype, seed=ground.seed, start_from=start_from)
    work = folder / "checkpoints"
    run = GrpoRun(
        policy=policy,
        tokenizer=bench.tokenizer,
        train=rewarded(ground.train, spec),
        development=ground.development,
        spec=spec,
        utility=utility,
        toolbox_of=ground.toolbox_of,
        folder=work,
        dtype=bench.dtype,
        seed=ground.seed,
        report=report,
    )
    with _log(folder / "trainer.log"):
        done = train_grpo(run)
    state = kept(work / "state.json") or {}
    facts = {
        "seconds": state["spent_s"],
        "outcome": done.outcome.model_dump(mode="json"),
        "steps": done.outcome.steps,
        "development": done.development,
        "curve": done.steps,
    }
    keep(folder / DONE, facts)
    return facts


def best_of(folder: Path) -> Path:
    """The adapter of the GRPO arm in `folder`: the best on the development set."""
    best = best_of_grpo(folder / "checkpoints")
    if best is None:
        raise FileNotFoundError(f"GRPO kept no adapter in {folder / 'checkpoints'}: it has made no development score")
    return best


class Examining:
    """An engine on the base that judges adapters by name, started when it is first asked for."""

    def __init__(self, bench: Bench, toolbox_of: ToolboxOf, spec: GrpoSpec) -> None:
        self._bench, self._toolbox_of, self._spec = bench, toolbox_of, spec
        self._stack = ExitStack()
        self._examiner: Examiner | None = None

    def __enter__(self) -> "Examining":
        return self

    def __call__(self) -> Examiner:
        if self._examiner is None:
            base = self._bench.base
            engine = TransformersEngine(
                base.path, base_digest=base.digest, max_batch=MAX_BATCH, max_adapters=8, dtype=self._bench.dtype
            )
            engine.start_worker()
            self._stack.callback(engine.stop_worker)
            loop = self._stack.enter_context(LoopThread())
            self._examiner = Examiner(engine, loop, self._toolbox_of, self._spec)
        return self._examiner

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@dataclass(frozen=True, slots=True)
class Judging:
    """One set of cases to be scored by one adapter (None: the base), and where the scores are kept."""

    path: Path
    cases: Sequence[Case]
    name: str | None = None
    adapter: Path | None = None


def judged(examining: Examining, work: Judging, done: Done = lambda *_: None) -> tuple[ScoredCase, ...]:
    """The scores of `work`, read back where they were kept; `examining` gives the examiner where they were not."""
    rows = kept(work.path)
    if rows is None:
        examiner_ = examining()
        if work.name is not None and work.adapter is not None:
            examiner_.load(work.name, work.adapter)
        scored = examiner_.score(work.cases, work.name, done)
        rows = keep(work.path, [asdict(row) for row in scored])
    return tuple(ScoredCase.from_row(row) for row in rows)


def same_adapter(first: Path, second: Path) -> bool:
    """Whether two adapter folders hold the same weights."""
    name = "adapter_model.safetensors"
    return (first / name).read_bytes() == (second / name).read_bytes()


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The options by which every benchmark that trains can be made smaller or larger."""
    parser.add_argument("--base", default=BUILTIN, help="folder, Hugging Face id, or the built-in base")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--top-layers", type=int, default=None, help="adapt only the last N layers")
    parser.add_argument("--sft-epochs", type=float, default=1.0)
    parser.add_argument("--sft-learning-rate", type=float, default=3.5e-3)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--summary-percent", type=int, default=100, help="of the investigations teach summaries, too")
    parser.add_argument("--max-turn-tokens", type=int, default=40)


def add_grpo_options(parser: argparse.ArgumentParser) -> None:
    """The options of a GRPO arm."""
    parser.add_argument("--grpo-steps", type=int, default=40, help="at most; the time limit may end it before")
    parser.add_argument("--grpo-learning-rate", type=float, default=5e-5)
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--alerts-per-step", type=int, default=8)
    parser.add_argument("--candidates-per-alert", type=int, default=1, help="1: alerts at random")
    parser.add_argument("--refill-rounds", type=int, default=1, help="more alerts for groups that agree")
    parser.add_argument("--eval-every", type=int, default=5)
    parser.add_argument("--start-auc", type=float, default=0.7)
    parser.add_argument("--start-valid-percent", type=float, default=95.0)
    parser.add_argument("--max-development", type=int, default=64)


def lora_of(options: argparse.Namespace) -> LoraSpec:
    return LoraSpec(rank=options.rank, alpha=options.alpha, top_layers=options.top_layers)


def sft_of(options: argparse.Namespace, **more: Any) -> SftSpec:
    fields = {
        "epochs": options.sft_epochs,
        "learning_rate": options.sft_learning_rate,
        "batch_size": options.batch_size,
        "summary_percent": options.summary_percent,
    }
    return SftSpec.model_validate({**fields, **more})


def grpo_of(options: argparse.Namespace, limit_s: float | None = None, **more: Any) -> GrpoSpec:
    fields = {
        "steps": options.grpo_steps,
        "learning_rate": options.grpo_learning_rate,
        "group_size": options.group_size,
        "alerts_per_step": options.alerts_per_step,
        "candidates_per_alert": options.candidates_per_alert,
        "refill_rounds": options.refill_rounds,
        "eval_every": options.eval_every,
        "start_auc": options.start_auc,
        "start_valid_percent": options.start_valid_percent,
        "max_turn_tokens": options.max_turn_tokens,
        "time_limit": f"{int(limit_s)}s" if limit_s is not None else None,
    }
    return GrpoSpec.model_validate({**fields, **more})
