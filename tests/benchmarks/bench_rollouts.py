"""Eight rollouts with one tool call of 0.25 s each: our loop beside TRL's own, same model, same turns.

Both loops really generate, with a tiny model that is told what to say: a call, then the verdict. Measured is the
batch's tool phase, from the first call's start to the last call's end, and the whole batch. TRL's trainer runs the
calls of one turn of one rollout together and the rollouts one after the other. Ends with status 1 where our tool phase
takes 0.6 s or more.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from tests.benchmarks.ledger import keep, run_with_model
from tests.benchmarks.tiny import script_of, tiny_model, tiny_tokenizer
from trl import GRPOConfig, GRPOTrainer

from socadapter_agent import protocol
from socadapter_agent.engine import Sampling
from socadapter_agent.investigation import Budgets
from socadapter_agent.tools import GuardedToolbox, ToolAnswer, ToolSpec
from socadapter_agent.transformers_engine import TransformersEngine
from socadapter_api.case import Alert, Case, Verdict
from socadapter_jobs.rollouts import Request, investigate_all

LIMIT_S = 0.6
ALERT = {"title": "Odd sign-in", "user": "mlee"}
RESULT = "31 failures, then success"
SPEC = ToolSpec(
    "signins",
    "sign-ins of a user",
    {"type": "object", "properties": {"user": {"type": "string"}}, "required": ["user"]},
)
CALL = protocol.render_call(SPEC.name, {"user": "mlee"})
ANSWER = protocol.render_answer(Verdict.TRUE_POSITIVE, "31 failures [e1]", ["e1"])
TRL_CALL = '<tool_call>\n{"name": "signins", "arguments": {"user": "mlee"}}\n</tool_call>'
TEXTS = (protocol.system_prompt((SPEC,)), CALL, ANSWER, TRL_CALL, RESULT, protocol.render_alert(Alert(ALERT)))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="bench_rollouts.py", description=__doc__)
    found.add_argument("--rollouts", type=int, default=8)
    found.add_argument("--tool-seconds", type=float, default=0.25)
    found.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts, for both")
    found.add_argument("--out", type=Path, default=Path("build/bench"))
    return found


@dataclass(slots=True)
class ToolPhase:
    """When the batch's calls began and ended."""

    seconds: float
    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    async def wait(self) -> str:
        self.began.append(time.perf_counter())
        await asyncio.sleep(self.seconds)
        self.ended.append(time.perf_counter())
        return RESULT

    @property
    def span_s(self) -> float:
        return max(self.ended) - min(self.began)


@dataclass(frozen=True, slots=True)
class SlowTools:
    """One tool that takes its time."""

    phase: ToolPhase
    specs: tuple[ToolSpec, ...] = (SPEC,)

    async def call(self, tool: str, args: Mapping[str, Any], alert: Alert) -> ToolAnswer:
        return ToolAnswer(await self.phase.wait())


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a batch's tool phase, and of the whole batch."""

    tools_s: float
    batch_s: float


def ours(tokenizer: Any, count: int, tool_s: float) -> Timing:
    """`investigate_all` on our engine."""
    model = tiny_model(len(tokenizer))
    engine = TransformersEngine.around(model, tokenizer, max_batch=count)
    case = Case(id="c", alert=ALERT, label=Verdict.TRUE_POSITIVE)
    chat = engine.format
    prompt = chat.prompt_ids(protocol.system_prompt((SPEC,)), protocol.render_alert(case.visible()))
    call, result = chat.turn_ids(CALL), chat.result_ids(protocol.render_result("e1", RESULT))
    second = len(prompt) + len(call) + len(result)
    model.script = script_of([(len(prompt), call), (second, chat.turn_ids(ANSWER))])
    phase = ToolPhase(tool_s)
    tools = GuardedToolbox(SlowTools(phase))
    requests = [Request(case, None, Sampling(), Budgets())] * count
    engine.start_worker()
    try:
        started = time.perf_counter()
        done = asyncio.run(investigate_all(requests, engine, lambda _: tools, at_once=count))
        taken = time.perf_counter() - started
    finally:
        engine.stop_worker()
    for investigation in done:
        trajectory = investigation.trajectory
        assert trajectory.verdict is Verdict.TRUE_POSITIVE, trajectory
        assert [call.result for call in trajectory.calls] == [RESULT], trajectory
    assert len(phase.ended) == count
    return Timing(phase.span_s, taken)


class TimedTrainer(GRPOTrainer):
    """TRL's trainer, which notes how long generation took, tool calls included."""

    generated_s = 0.0

    def _generate(self, prompts: list[Any]) -> Any:
        started = time.perf_counter()
        generated = super()._generate(prompts)
        self.generated_s = time.perf_counter() - started
        return generated


def trl(tokenizer: Any, count: int, tool_s: float, folder: Path) -> Timing:
    """GRPOTrainer's generation with an asynchronous tool."""
    phase = ToolPhase(tool_s)

    async def signins(user: str) -> str:
        """
        Sign-ins of a user.

        Args:
            user: whose sign-ins.
        """
        return await phase.wait()

    model = tiny_model(len(tokenizer))
    prompt = [{"role": "user", "content": protocol.render_alert(Alert(ALERT))}]
    trainer = TimedTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=count,
            num_generations=count,
            max_completion_length=512,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt}]),
        processing_class=tokenizer,
        tools=[signins],
    )
    asked = trainer._tokenize_prompts([prompt])[0][0]
    call, answer = ([*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in (TRL_CALL, ANSWER))
    result = trainer._get_tool_suffix_ids([{"role": "tool", "name": SPEC.name, "content": RESULT}])
    second = len(asked) + len(call) + len(result)
    model.script = script_of([(len(asked), call), (second, answer)])
    trainer._generate_and_score_completions([{"prompt": prompt}] * count)
    assert len(phase.ended) == count, f"{len(phase.ended)} calls instead of {count}"
    return Timing(phase.span_s, trainer.generated_s)


def fastest(measure: Callable[[], Timing], repeats: int) -> Timing:
    return min((measure() for _ in range(repeats)), key=lambda timing: timing.tools_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures both, prints and writes ``rollouts.json``; 1 where our tool phase takes too long."""
    options = parser().parse_args(argv)
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer(TEXTS * 4)
    count, tool_s = options.rollouts, options.tool_seconds
    own = fastest(lambda: ours(tokenizer, count, tool_s), options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        peer = fastest(lambda: trl(tokenizer, count, tool_s, Path(folder)), options.repeats)
    result = {
        "ours_s": own.tools_s,
        "trl_s": peer.tools_s,
        "ratio": peer.tools_s / own.tools_s,
        "rollouts": count,
        "tool_s": tool_s,
        "ours_batch_s": own.batch_s,
        "trl_batch_s": peer.batch_s,
        "limit_s": LIMIT_S,
    }
    keep(options.out / "rollouts.json", result)
    print(
        f"{count} rollouts, a tool of {tool_s:g} s each: tool phase {own.tools_s:.2f} s, with TRL's loop "
        f"{peer.tools_s:.2f} s ({result['ratio']:.1f} times as long); whole batch {own.batch_s:.2f} s and "
        f"{peer.batch_s:.2f} s"
    )
    if own.tools_s >= LIMIT_S:
        print(f"too slow: the tool phase must stay under {LIMIT_S} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_with_model(main))
