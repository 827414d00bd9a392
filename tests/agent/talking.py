"""What is said to an engine in its tests, and what plain `transformers` says to the same."""

import asyncio
from collections.abc import Callable
from typing import Any

import torch

from socadapter_agent.engine import Sampling, Turn
from socadapter_agent.transformers_engine import TransformersEngine

SYSTEM = "Triage alerts."
ALERTS = ["a", "user: mlee", "title: Odd login\nhost: web-3", "x" * 90, "user: mlee\ncount: 3", "z"]
SHORT = Sampling(max_turn_tokens=12)


def greedy(model: Any, ids: list[int], tokens: int, end: int) -> list[int]:
    """What `transformers` itself generates."""
    found = model.generate(
        torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, eos_token_id=end, pad_token_id=0
    )
    new: list[int] = found[0, len(ids) :].tolist()
    return new


async def until(condition: Callable[[], Any]) -> None:
    """Waits for what the engine's own thread does."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def say(engine: TransformersEngine, user: str, adapter: str | None = None, sampling: Sampling = SHORT) -> Turn:
    session = engine.open(SYSTEM, user, adapter)
    try:
        return await session.turn(sampling)
    finally:
        session.close()
