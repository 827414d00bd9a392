"""Tokens a second of our engine, which keeps its cache between turns, beside `generate`, which reads everything anew.

Same model, prompts, tool results and number of sampled tokens; greedy; turns never end early. Both are batched over
all conversations. The instructions that the conversations share are read once by our engine.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

import torch
from tests.benchmarks.arms import Bench
from tests.benchmarks.ledger import keep, run_with_model
from transformers import AutoModelForCausalLM

from socadapter_agent import protocol
from socadapter_agent.base_model import BUILTIN
from socadapter_agent.chat_format import ChatFormat, chat_format
from socadapter_agent.engine import Sampling
from socadapter_agent.tools import ToolSpec
from socadapter_agent.transformers_engine import TransformersEngine
from socadapter_api.case import Alert
from socadapter_range.tools import TOOL_SPECS

_NEVER = -1e4


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="bench_engine.py", description=__doc__)
    found.add_argument("--base", default=BUILTIN, help="folder, Hugging Face id, or the built-in base")
    found.add_argument("--conversations", type=int, default=8)
    found.add_argument("--turns", type=int, default=4)
    found.add_argument("--turn-tokens", type=int, default=24)
    found.add_argument("--repeats", type=int, default=2, help="the fastest of so many counts, for both")
    found.add_argument("--out", type=Path, default=Path("build/bench"))
    return found


@dataclass(frozen=True, slots=True)
class Talk:
    """What all conversations go through."""

    conversations: int
    turns: int
    turn_tokens: int

    @property
    def system(self) -> str:
        return protocol.system_prompt([ToolSpec(s.name, s.description, s.parameters) for s in TOOL_SPECS])

    def user(self, number: int) -> str:
        fields = {"title": "Large outbound transfer", "severity": "high", "user": f"user{number}", "host": f"h{number}"}
        return protocol.render_alert(Alert(fields))

    def result(self, turn: int) -> str:
        return protocol.render_result(f"e{turn}", f"{10 + turn} rows: bulk copy; link=wired; hours=night; owner=data")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds, tokens that were read (prompts and results), and what was sampled, by conversation and turn."""

    seconds: float
    read: int
    sampled: list[list[list[int]]]

    @property
    def generated(self) -> int:
        return sum(len(turn) for turns in self.sampled for turn in turns)


def never_ending(model: Any, end: Sequence[int]) -> None:
    """Makes the model's ends of a turn impossible, so that both sides sample equally many tokens."""
    forward = model.forward

    @wraps(forward)
    def without_end(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits[..., list(end)] += _NEVER
        return output

    model.forward = without_end


def ours(model: Any, tokenizer: Any, talk: Talk) -> Outcome:
    """Sessions of our engine, all turns of a round at once."""
    engine = TransformersEngine.around(model, tokenizer, max_batch=talk.conversations)
    sampling = Sampling(max_turn_tokens=talk.turn_tokens)

    async def converse() -> Outcome:
        started = time.perf_counter()
        sessions = [engine.open(talk.system, talk.user(number)) for number in range(talk.conversations)]
        read = 0
        sampled: list[list[list[int]]] = [[] for _ in sessions]
        for turn in range(talk.turns):
            answers = await asyncio.gather(*(session.turn(sampling) for session in sessions))
            for session, answer, said in zip(sessions, answers, sampled, strict=True):
                read += answer.tokens_read
                said.append(list(answer.token_ids))
                session.add_result(talk.result(turn))
        taken = time.perf_counter() - started
        for session in sessions:
            session.close()
        return Outcome(taken, read, sampled)

    engine.start_worker()
    try:
        return asyncio.run(converse())
    finally:
        engine.stop_worker()


def generate(model: Any, tokenizer: Any, talk: Talk) -> Outcome:
    """`generate` on the whole conversation in every turn, left-padded."""
    chat: ChatFormat = chat_format(tokenizer)
    started = time.perf_counter()
    contexts = [chat.prompt_ids(talk.system, talk.user(number)) for number in range(talk.conversations)]
    read = 0
    sampled: list[list[list[int]]] = [[] for _ in contexts]
    for turn in range(talk.turns):
        width = max(len(ids) for ids in contexts)
        ids = torch.tensor([[chat.end_of_turn] * (width - len(ids)) + ids for ids in contexts])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in contexts])
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=talk.turn_tokens,
                do_sample=False,
                pad_token_id=chat.end_of_turn,
                use_cache=True,
            )
        read += int(mask.sum())
        for context, said, row in zip(contexts, sampled, output.tolist(), strict=True):
            said.append(row[width:])
            context += [*row[width:], chat.end_of_turn, *chat.result_ids(talk.result(turn))]
    return Outcome(time.perf_counter() - started, read, sampled)


def fastest(measure: Callable[[], Outcome], repeats: int) -> Outcome:
    return min((measure() for _ in range(repeats)), key=lambda outcome: outcome.seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures both, prints and writes ``engine.json``."""
    options = parser().parse_args(argv)
    bench = Bench.on(options.base, options.out / "engine")
    model = AutoModelForCausalLM.from_pretrained(bench.base.path, dtype=bench.dtype).eval()
    ends = {chat_format(bench.tokenizer).end_of_turn, *_as_list(model.generation_config.eos_token_id)}
    never_ending(model, sorted(ends))
    talk = Talk(options.conversations, options.turns, options.turn_tokens)
    own = fastest(lambda: ours(model, bench.tokenizer, talk), options.repeats)
    peer = fastest(lambda: generate(model, bench.tokenizer, talk), options.repeats)
    if own.generated != peer.generated:
        raise AssertionError(f"ours sampled {own.generated} tokens and generate {peer.generated}")
    alike = [a == b for x, y in zip(own.sampled, peer.sampled, strict=True) for a, b in zip(x, y, strict=True)]
    result = {
        "base": options.base,
        "dtype": str(bench.dtype).removeprefix("torch."),
        "conversations": talk.conversations,
        "turns": talk.turns,
        "tokens_sampled": own.generated,
        "ours_s": own.seconds,
        "generate_s": peer.seconds,
        "ours_tokens_per_s": own.generated / own.seconds,
        "generate_tokens_per_s": peer.generated / peer.seconds,
        "ratio": peer.seconds / own.seconds,
        "ours_tokens_read": own.read,
        "generate_tokens_read": peer.read,
        "turns_alike": sum(alike) / len(alike),
    }
    keep(options.out / "engine.json", result)
    print(
        f"{talk.conversations} conversations of {talk.turns} turns, {own.generated} tokens sampled: "
        f"{result['ours_tokens_per_s']:.0f} tokens/s, generate {result['generate_tokens_per_s']:.0f} tokens/s "
        f"({result['ratio']:.1f} times as long); read {own.read} and {peer.read} tokens; "
        f"{result['turns_alike']:.0%} of the turns are the same"
    )
    return 0


def _as_list(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(value)] if isinstance(value, int) else [int(item) for item in value]


if __name__ == "__main__":
    sys.exit(run_with_model(main))
