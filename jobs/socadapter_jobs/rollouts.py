"""Many investigations at once: what GRPO samples from and what evaluation scores.

The engine batches their turns, the event loop overlaps their tool calls. Owns the loop's thread, because trainers are
synchronous.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from socadapter_agent.engine import Engine, Sampling
from socadapter_agent.investigation import Budgets, Investigation, investigate
from socadapter_api.case import Case
from socadapter_api.training import GrpoSpec
from socadapter_jobs.environment import ToolboxOf

T = TypeVar("T")


def budgets_of(spec: GrpoSpec, *, summary: bool) -> Budgets:
    """The budgets of an investigation; with `summary`, turns have room for one."""
    return Budgets(
        max_turns=spec.max_turns,
        max_calls=spec.max_calls,
        max_turn_tokens=spec.max_turn_tokens + (spec.max_summary_tokens if summary else 0),
        max_context_tokens=spec.max_context_tokens,
    )


@dataclass(frozen=True, slots=True)
class Request:
    """One investigation to run."""

    case: Case
    adapter: str | None
    sampling: Sampling
    budgets: Budgets


async def investigate_all(
    requests: Sequence[Request],
    engine: Engine,
    toolbox_of: ToolboxOf,
    *,
    at_once: int = 64,
    done: Callable[[int, Investigation], None] | None = None,
) -> list[Investigation]:
    """Runs the requests, at most `at_once` together and taken up in order; returns their investigations in order.

    `done` is told each request's number and its investigation as it ends. Where one of them or `done` raises, the
    others are ended before the error goes on.
    """
    gate = asyncio.Semaphore(at_once)

    async def one(number: int, request: Request) -> Investigation:
        async with gate:
            investigation = await investigate(
                request.case.visible(),
                toolbox_of(request.case),
                engine,
                adapter=request.adapter,
                budgets=request.budgets,
                sampling=request.sampling,
            )
        if done is not None:
            done(number, investigation)
        return investigation

    tasks = [asyncio.create_task(one(number, request)) for number, request in enumerate(requests)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class LoopThread:
    """An event loop in a thread of its own, for callers that are not asynchronous."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="rollouts", daemon=True)

    def __enter__(self) -> "LoopThread":
        self._thread.start()
        return self

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for `work` to finish on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
