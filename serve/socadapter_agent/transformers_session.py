"""One conversation of the in-process engine, and one turn of it while it is being sampled.

State only: `transformers_engine` reads and writes it from its worker thread.
"""

import asyncio
import random
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from socadapter_agent.chat_format import ChatFormat
from socadapter_agent.drafts import MAX_GUESSES, Conversation
from socadapter_agent.engine import Sampling, TokenRecord, Turn
from socadapter_api.errors import EngineUnavailable

BASE = "__base__"
"""PEFT's name for rows without an adapter."""


class Worker(Protocol):
    """What a conversation asks of its engine."""

    @property
    def format(self) -> ChatFormat: ...

    def submit(self, session: "TransformersSession", sampling: Sampling) -> "Future[Turn]": ...

    def release(self, session: "TransformersSession") -> None: ...


@dataclass(slots=True, eq=False)
class Job:
    """A turn being sampled."""

    session: "TransformersSession"
    sampling: Sampling
    future: "Future[Turn]"
    uniform: random.Random
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    probabilities: tuple[float, float, float, float] | None = None
    read: int = 0
    reach: int = MAX_GUESSES
    """How many tokens after the next it is worth guessing."""

    def say(self, token: int, logprob: float) -> None:
        """Appends a token that was sampled to the turn and to its conversation."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.session.append([token], mask=1, logprobs=[logprob])


class TransformersSession:
    """One conversation; see `engine.Session`."""

    def __init__(self, engine: Worker, shared: list[int], rest: list[int], adapter: str | None) -> None:
        self._engine = engine
        self.adapter = adapter or BASE
        self.shared = tuple(shared)
        self.ids = [*shared, *rest]
        self.prompt_tokens = len(self.ids)
        self.mask: list[int] = []
        self.logprobs: list[float] = []
        self.cached = 0
        self.said = Conversation()
        self.slot: int | None = None
        self.closed = False

    @property
    def context_tokens(self) -> int:
        return len(self.ids)

    @property
    def own_slot(self) -> int:
        """The slot of the cache that it holds. Raises EngineUnavailable where it holds none."""
        if self.slot is None:
            raise EngineUnavailable("the conversation holds no slot of the cache")
        return self.slot

    async def turn(self, sampling: Sampling) -> Turn:
        return await asyncio.wrap_future(self._engine.submit(self, sampling))

    def add_result(self, text: str) -> None:
        chat = self._engine.format
        opening = [] if self.ids[-1] == chat.end_of_turn else [chat.end_of_turn]
        self.append([*opening, *chat.result_ids(text)], mask=0, logprobs=None)

    def append(self, ids: list[int], mask: int, logprobs: list[float] | None) -> None:
        self.ids += ids
        self.mask += [mask] * len(ids)
        self.logprobs += logprobs or [0.0] * len(ids)

    def record(self) -> TokenRecord:
        cut = self.prompt_tokens
        return TokenRecord(tuple(self.ids[:cut]), tuple(self.ids[cut:]), tuple(self.mask), tuple(self.logprobs))

    def close(self) -> None:
        self.closed = True
        self._engine.release(self)
