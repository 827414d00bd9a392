"""One training step with our language-model head beside the same step with TRL's fused head, on the CPU.

Same policy, same batch of experts' investigations, loss and backward pass included. Ours computes only the positions
whose token is scored; both losses are compared.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

import torch
from datasets import Dataset
from tests.benchmarks.arms import Bench
from tests.benchmarks.ledger import keep, run_with_model
from trl import SFTConfig

from socadapter_agent.base_model import BUILTIN
from socadapter_agent.chat_format import chat_format
from socadapter_agent.tools import ToolSpec
from socadapter_api.training import LoraSpec
from socadapter_jobs.examples import Example, encode_all
from socadapter_jobs.lean_head import LeanHead
from socadapter_jobs.policy import load_policy, training_arguments
from socadapter_jobs.sft import WeightedCollator, WeightedTrainer
from socadapter_range.dataset import TELEMETRY_FILE, range_cases, solve
from socadapter_range.toolbox import RangeToolbox
from socadapter_range.tools import TOOL_SPECS
from socadapter_range.vocabulary import CONTEXTS
from socadapter_range.world import World


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="bench_head.py", description=__doc__)
    found.add_argument("--base", default=BUILTIN, help="folder, Hugging Face id, or the built-in base")
    found.add_argument("--rank", type=int, default=4)
    found.add_argument("--batch-size", type=int, default=8)
    found.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts, for both")
    found.add_argument("--out", type=Path, default=Path("build/bench"))
    return found


def investigations(bench: Bench, count: int) -> list[Example]:
    """The range's expert investigations as token rows."""
    world = World(7)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TELEMETRY_FILE
        world.write(path)
        tools = RangeToolbox(path)
        experts = solve(world, range_cases(world, CONTEXTS[0], "train", count), tools)
        tools.close()
    specs = [ToolSpec(s.name, s.description, s.parameters) for s in TOOL_SPECS]
    return encode_all(experts, chat_format(bench.tokenizer), specs, 2048)


def trainer_of(bench: Bench, policy: Any, examples: Sequence[Example], folder: str) -> WeightedTrainer:
    """The SFT stage's trainer as TRL builds it, with TRL's head."""
    return WeightedTrainer(
        model=policy,
        args=SFTConfig(
            output_dir=folder,
            max_length=None,
            per_device_train_batch_size=len(examples),
            dataset_kwargs={"skip_prepare_dataset": True},
            **training_arguments(bench.dtype),
        ),
        train_dataset=Dataset.from_list([row_of(example) for example in examples]),
        processing_class=bench.tokenizer,
        data_collator=WeightedCollator(pad_token_id=int(bench.tokenizer.pad_token_id)),
    )


def step(bench: Bench, trainer: WeightedTrainer, policy: Any, batch: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a forward and backward pass, and the loss."""
    bf16 = bench.dtype is torch.bfloat16
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()
    policy.zero_grad()
    started = time.perf_counter()
    with autocast:
        loss = trainer.compute_loss(policy, batch)
    loss.backward()
    return time.perf_counter() - started, float(loss.detach())


def fastest(measure: Callable[[], tuple[float, float]], repeats: int) -> tuple[float, float]:
    measure()  # the first step also allocates
    return min(measure() for _ in range(repeats))


def main(argv: Sequence[str] | None = None) -> int:
    """Measures both, prints and writes ``head.json``; 1 where the losses differ."""
    options = parser().parse_args(argv)
    bench = Bench.on(options.base, options.out / "head")
    policy = load_policy(bench.base, LoraSpec(rank=options.rank), dtype=bench.dtype, seed=0)
    examples = investigations(bench, options.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(bench, policy, examples, folder)
        batch = trainer.data_collator([row_of(example) for example in examples])
        fused_s, fused_loss = fastest(lambda: step(bench, trainer, policy, batch), options.repeats)
        LeanHead(policy)
        lean_s, lean_loss = fastest(lambda: step(bench, trainer, policy, batch), options.repeats)
    scored = int((batch["labels"] != -100).sum())
    result = {
        "base": options.base,
        "dtype": str(bench.dtype).removeprefix("torch."),
        "positions": batch["input_ids"].numel(),
        "scored_positions": scored,
        "ours_s": lean_s,
        "trl_s": fused_s,
        "ratio": fused_s / lean_s,
        "ours_loss": lean_loss,
        "trl_loss": fused_loss,
    }
    keep(options.out / "head.json", result)
    print(
        f"a training step of {result['positions']} positions, {scored} of them scored: {lean_s:.2f} s, with TRL's "
        f"fused head {fused_s:.2f} s ({result['ratio']:.1f} times as long); loss {lean_loss:.4f} and {fused_loss:.4f}"
    )
    if abs(lean_loss - fused_loss) > 0.01 * max(1.0, abs(fused_loss)):
        print("the two heads do not give the same loss", file=sys.stderr)
        return 1
    return 0


def row_of(example: Example) -> dict[str, Any]:
    """A row as the trainer's data set holds it."""
    return {"input_ids": example.input_ids, "labels": example.labels, "weights": example.weights}


if __name__ == "__main__":
    sys.exit(run_with_model(main))
