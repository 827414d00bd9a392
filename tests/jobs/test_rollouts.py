"""Many investigations at once: taken up in order, told as they end, and ended together where one fails.

The engine is scripted, so that a test decides which conversation answers and which one waits.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.jobs.scripted import EngineWithoutModel

from socadapter_agent import protocol
from socadapter_agent.engine import Sampling, TokenRecord, Turn
from socadapter_agent.investigation import Budgets, Investigation
from socadapter_agent.replay import ReplayToolbox, specs_of_cases
from socadapter_api.case import Case, Verdict
from socadapter_api.training import ReplayMiss
from socadapter_jobs.rollouts import Request, investigate_all


@dataclass
class Conversation:
    """Concludes at once, or never."""

    verdict: Verdict | None
    closed: bool = False

    async def turn(self, sampling: Sampling) -> Turn:
        if self.verdict is None:
            await asyncio.Event().wait()
        return Turn(protocol.render_answer(self.verdict or Verdict.INVALID, "", []), (1,), (-0.5,))

    def add_result(self, text: str) -> None:
        raise AssertionError("no tool is asked")

    context_tokens = 1

    def record(self) -> TokenRecord | None:
        return None

    def close(self) -> None:
        self.closed = True


@dataclass
class Engine(EngineWithoutModel):
    """Verdicts by the number in the alert; an alert without one is never answered."""

    verdicts: Mapping[int, Verdict]
    opened: list[Conversation] = field(default_factory=list)

    def open(self, system: str, user: str, adapter: str | None = None) -> Conversation:
        self.opened.append(Conversation(self.verdicts.get(int(user.rpartition("count: ")[2]))))
        return self.opened[-1]


@pytest.fixture
def cases(making: Any) -> list[Case]:
    found: list[Case] = making.cases(6)
    return found


def asked(cases: list[Case]) -> list[Request]:
    return [Request(case, None, Sampling(), Budgets()) for case in cases]


async def test_each_is_told_by_its_number_and_all_come_back_in_order(cases: list[Case]) -> None:
    """Whatever ends first: the number belongs to the request, and at most `at_once` are open together."""
    verdicts = [Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE] * 3
    engine = Engine(dict(enumerate(verdicts)))
    told: dict[int, Verdict] = {}
    tools = ReplayToolbox({}, specs_of_cases(cases), ReplayMiss.NO_DATA)

    def ended(number: int, investigation: Investigation) -> None:
        told[number] = investigation.trajectory.verdict
        assert sum(not each.closed for each in engine.opened) <= 2

    found = await investigate_all(asked(cases), engine, lambda _: tools, at_once=2, done=ended)
    assert verdicts == [each.trajectory.verdict for each in found]
    assert dict(enumerate(verdicts)) == told


async def test_where_one_raises_the_others_are_ended_and_none_begins(cases: list[Case]) -> None:
    """An interruption leaves nothing at work: what was open is closed before the error is seen."""
    engine = Engine({0: Verdict.TRUE_POSITIVE})
    tools = ReplayToolbox({}, specs_of_cases(cases), ReplayMiss.NO_DATA)

    def interrupt(number: int, investigation: Investigation) -> None:
        raise InterruptedError(number)

    with pytest.raises(InterruptedError):
        await investigate_all(asked(cases), engine, lambda _: tools, at_once=3, done=interrupt)
    assert len(engine.opened) <= 4
    assert all(each.closed for each in engine.opened)
    assert 1 == len(asyncio.all_tasks())
