"""What conversations have in common is read by one of them, and each still says what it says alone."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.agent.talking import ALERTS, SHORT, SYSTEM, greedy, say

from socadapter_agent.engine import Sampling
from socadapter_agent.slot_cache import SlotCache
from socadapter_agent.slot_holders import common_tokens
from socadapter_agent.transformers_engine import TransformersEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
]

LONG_ALERT = ALERTS[3]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward pass has read, padding apart."""
    found: list[int] = []
    place = SlotCache.place

    def counted(self: SlotCache, slots: torch.Tensor, positions: torch.Tensor, readable: int) -> None:
        found.append(int((positions != self.unread).sum()))
        place(self, slots, positions, readable)

    monkeypatch.setattr(SlotCache, "place", counted)
    return found


def one_token(seed: int) -> Sampling:
    """A turn that is over with what the first pass gives, so that passes are of reading only."""
    return Sampling(temperature=1.5, max_turn_tokens=1, seed=seed)


def own_tokens(engine: TransformersEngine, alert: str) -> int:
    return len(engine.format.prompt_ids(SYSTEM, alert)) - len(engine.format.system_ids(SYSTEM))


async def test_a_group_reads_its_alert_once(make_engine: Any, passes: list[int]) -> None:
    """Of eight trajectories one reads, and all say what comes of it."""
    async with make_engine(max_batch=8) as engine:
        await say(engine, ALERTS[0], sampling=one_token(0))
        alone = [(await say(engine, LONG_ALERT, sampling=one_token(seed))).token_ids for seed in range(8)]
        engine.forget()
        passes.clear()
        sessions = [engine.open(SYSTEM, LONG_ALERT) for _ in range(8)]
        with engine._wake:  # so that all of them wait when the first is taken
            turns = [engine.submit(session, one_token(seed)) for seed, session in enumerate(sessions)]
        crowd = [await asyncio.wrap_future(turn) for turn in turns]
        assert [len(engine.format.system_ids(SYSTEM)), own_tokens(engine, LONG_ALERT)] == passes
        assert {own_tokens(engine, LONG_ALERT)} == {turn.tokens_read for turn in crowd}
    assert alone == [turn.token_ids for turn in crowd]


async def test_a_group_says_what_each_would_say_alone(make_engine: Any) -> None:
    """Through turns of many tokens, guessed ones among them, in which they part, and through a second turn."""

    async def conversation(engine: TransformersEngine, seed: int) -> list[tuple[int, ...]]:
        session = engine.open(SYSTEM, LONG_ALERT)
        turns = []
        for turn in range(2):
            sampling = Sampling(temperature=0.05, max_turn_tokens=10, seed=seed * 2 + turn)
            turns.append((await session.turn(sampling)).token_ids)
            session.add_result("[e1] 3 rows")
        session.close()
        return turns

    async with make_engine(max_batch=8) as engine:
        alone = [await conversation(engine, seed) for seed in range(8)]
        engine.forget()
        together = await asyncio.gather(*(conversation(engine, seed) for seed in range(8)))
    assert alone == together
    assert 1 < len({turns[0] for turns in alone}) < 8


async def test_trajectories_that_part_are_read_apart_from_there(make_engine: Any, model: Any) -> None:
    """Eight of one alert, and each goes on as plain generation would, whatever was taken over from whom."""
    results = ["[e1] " + "same " * 12 + kind for kind in ("a", "a", "b", "b")]
    async with make_engine(max_batch=8) as engine:
        end = engine.format.end_of_turn

        async def conversation(result: str, tokens: int) -> None:
            session = engine.open(SYSTEM, LONG_ALERT)
            for text in (result, result + " again"):
                expected = greedy(model, list(session.ids), tokens, end)
                assert expected == list((await session.turn(Sampling(max_turn_tokens=tokens))).token_ids)
                session.add_result(text)
            session.close()

        await asyncio.gather(*(conversation(result, tokens) for result in results for tokens in (3, 6)))


async def test_a_closed_conversation_is_still_of_use(make_engine: Any, passes: list[int]) -> None:
    """Until its slot is given to another, what it read need not be read again, and it is given to who can use it."""
    async with make_engine(max_batch=2) as engine:
        first, second = engine.open(SYSTEM, ALERTS[0]), engine.open(SYSTEM, LONG_ALERT)
        await first.turn(SHORT)
        await second.turn(SHORT)
        first.close()
        second.close()
        passes.clear()
        await say(engine, LONG_ALERT, sampling=one_token(0))
        assert [1] == passes


async def test_nothing_is_taken_over_where_it_would_be_wrong(
    make_engine: Any, adapters: dict[str, Path], passes: list[int]
) -> None:
    """Not from another adapter, and not from weights that were."""
    async with make_engine(max_batch=4) as engine:
        one, other = list(adapters)[:2]
        for name in (one, other):
            await engine.load_adapter(name, adapters[name])
        alone = []
        for adapter in (None, one, other):
            engine.forget()
            alone.append((await say(engine, LONG_ALERT, adapter)).token_ids)
        together = await asyncio.gather(*(say(engine, LONG_ALERT, adapter) for adapter in (None, one, other)))
        assert alone == [turn.token_ids for turn in together]
        assert len(set(alone)) == 3
        engine.forget()
        await _reads_all(engine, one, passes)
        await engine.unload_adapter(one)
        await engine.load_adapter(one, adapters[one])
        await _reads_all(engine, one, passes)


async def _reads_all(engine: TransformersEngine, adapter: str, passes: list[int]) -> None:
    """It does once, and need not the second time."""
    passes.clear()
    for seed in (0, 1):
        await say(engine, LONG_ALERT, adapter, one_token(seed))
    assert [own_tokens(engine, LONG_ALERT), 1] == passes[-2:]


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [
        pytest.param([], [1], 0, id="nothing"),
        pytest.param([1, 2, 3], [1, 2, 3], 3, id="the same"),
        pytest.param([1, 2, 3], [1, 2, 4, 5], 2, id="parting"),
        pytest.param([1, 2], [1, 2, 3], 2, id="one goes on"),
        pytest.param([2, 1, 1], [3, 1, 1], 0, id="alike only later"),
    ],
)
def test_common_tokens(first: list[int], second: list[int], common: int) -> None:
    """Counted from the start, either way round."""
    assert common == common_tokens(first, second) == common_tokens(second, first)
