"""Judges adapters: one engine on the base, the adapters that are compared, and the tools that they use.

What is to be investigated comes in rounds, and all rounds go through the engine as one stream. `evaluation` says which
rounds; ``make bench-learning`` and ``make bench-rank`` judge their arms with it too.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from socadapter_agent.base_model import BaseModel
from socadapter_agent.engine import Sampling
from socadapter_agent.investigation import Investigation
from socadapter_agent.precision import dtype_of
from socadapter_agent.tools import ToolSpec
from socadapter_agent.transformers_engine import TransformersEngine
from socadapter_api.case import Case
from socadapter_api.training import GrpoSpec, Precision, ReplayMiss, ToolServer
from socadapter_api.trajectory import Trajectory
from socadapter_jobs.environment import ToolboxOf, open_environment
from socadapter_jobs.rollouts import LoopThread, Request, budgets_of, investigate_all
from socadapter_jobs.scoring.scored_case import ScoredCase, verdicts

MAX_BATCH = 48

Ended = Callable[[int, int, Trajectory], None]
"""Told the number of a round, that of a case in it, and the investigation that ended."""


@dataclass(frozen=True, slots=True)
class Round:
    """Cases that an adapter (None: the base) investigates, to their verdicts or on to their summaries."""

    cases: Sequence[Case]
    adapter: str | None
    summary: bool = False


class Examiner:
    """See the module. Investigations are greedy."""

    def __init__(
        self,
        engine: TransformersEngine,
        loop: LoopThread,
        toolbox_of: ToolboxOf,
        spec: GrpoSpec,
        at_once: int = MAX_BATCH,
    ) -> None:
        self.engine, self._loop, self._toolbox_of, self._spec, self._at_once = engine, loop, toolbox_of, spec, at_once

    def load(self, name: str, folder: Path) -> None:
        """Loads an adapter under `name`."""
        self._loop.run(self.engine.load_adapter(name, folder))

    def tools_of(self, case: Case) -> tuple[ToolSpec, ...]:
        """What an investigation of `case` may ask."""
        return self._toolbox_of(case).specs

    def investigate(self, rounds: Sequence[Round], ended: Ended | None = None) -> list[list[Trajectory]]:
        """The investigations of each round, in order.

        The rounds follow each other in one stream: the next begins while the last few of one are still at work.
        """
        places = [(number, index) for number, each in enumerate(rounds) for index in range(len(each.cases))]

        def told(request: int, investigation: Investigation) -> None:
            if ended is not None:
                ended(*places[request], investigation.trajectory)

        requests = [request for each in rounds for request in self._requests(each)]
        work = investigate_all(requests, self.engine, self._toolbox_of, at_once=self._at_once, done=told)
        found: list[list[Trajectory]] = [[] for _ in rounds]
        for (number, _), investigation in zip(places, self._loop.run(work), strict=True):
            found[number].append(investigation.trajectory)
        return found

    def _requests(self, asked: Round) -> Iterator[Request]:
        budgets = budgets_of(self._spec, summary=asked.summary)
        for case in asked.cases:
            yield Request(case, asked.adapter, Sampling(stop_at_verdict=not asked.summary), budgets)

    def score(
        self, cases: Sequence[Case], adapter: str | None, done: Callable[[int, int], None] | None = None
    ) -> list[ScoredCase]:
        """Verdicts of `cases`, judged. `done` is told how many of how many are there."""
        finished = itertools.count(1)

        def ended(*_: object) -> None:
            if done is not None:
                done(next(finished), len(cases))

        [trajectories] = self.investigate([Round(cases, adapter)], ended)
        return verdicts(cases, trajectories)


@contextmanager
def examiner(
    base: BaseModel,
    spec: GrpoSpec,
    servers: tuple[ToolServer, ...],
    cases: Sequence[Case],
    miss: ReplayMiss,
    specs: tuple[ToolSpec, ...] | None,
    precision: Precision,
) -> Iterator[Examiner]:
    """An examiner on `base` whose tools are open within the context."""
    engine = TransformersEngine(
        base.path, base_digest=base.digest, max_batch=MAX_BATCH, max_adapters=8, dtype=dtype_of(precision)
    )
    engine.start_worker()
    try:
        with LoopThread() as loop:
            environment = open_environment(servers, cases, miss, specs)
            toolbox_of = loop.run(environment.__aenter__())
            try:
                yield Examiner(engine, loop, toolbox_of, spec)
            finally:
                loop.run(environment.__aexit__(None, None, None))
    finally:
        engine.stop_worker()
