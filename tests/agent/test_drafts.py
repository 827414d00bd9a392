"""Guesses at next tokens: they change how many passes a turn takes, never what it says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.agent.talking import ALERTS, SYSTEM, say

from socadapter_agent.drafts import MAX_GUESSES, Conversation, Drafts, NextTokens, reach_after
from socadapter_agent.engine import Sampling, Turn
from socadapter_agent.slot_attention import for_groups
from socadapter_agent.transformers_engine import TransformersEngine

pytestmark = pytest.mark.slow

ALERT = ALERTS[4]
GREEDY = Sampling(max_turn_tokens=24)
WARM = Sampling(temperature=1.2, max_turn_tokens=24, seed=5)


def test_the_longest_known_run_is_followed_and_what_is_new_is_not_guessed() -> None:
    """Of a run of two and one of one the longer counts; the last follower replaces an earlier one."""
    known = NextTokens((2, 1))
    known.read([1, 2, 3, 9, 2, 4], 0)
    assert known.after([1, 2]) == 3
    assert known.after([7, 2]) == 4
    assert known.after([7, 5]) is None
    assert known.after([]) is None


def test_only_what_follows_the_start_is_noted() -> None:
    """What lies before `start` is context and no follower."""
    known = NextTokens((1,))
    known.read([1, 2, 3], 2)
    assert known.after([1]) is None
    assert known.after([2]) == 3


def test_guesses_go_on_from_turn_to_alert() -> None:
    """The adapter's usual words come first, a copy of the conversation's own where those end."""
    drafts, own = Drafts(), Conversation()
    usual = [5, 6, 7, 8]
    drafts.learn("a", usual, 0)
    conversation = [8, 40, 41, 42, 5, 6, 7]
    assert drafts.guess("a", conversation, own, 4) == [8, 40, 41, 42]
    assert drafts.guess("a", conversation, own, 2) == [8, 40]
    assert drafts.guess("a", conversation, own, 0) == []
    drafts.forget("a")
    assert drafts.guess("a", conversation, own, 4) == []


def test_another_adapters_words_are_not_guessed() -> None:
    """What one adapter says is no guess for another."""
    drafts = Drafts()
    drafts.learn("a", [5, 6, 7, 8], 0)
    assert drafts.guess("b", [5, 6, 7], Conversation(), 4) == []


def test_each_head_of_a_group_has_the_groups_mask() -> None:
    """The mask is repeated head by head, in the order in which `slot_attention` lays the queries."""
    hidden = torch.tensor([[[[False, True], [False, False]]]])
    added = for_groups(hidden, 2, torch.float32)
    low = float("-inf")
    assert [[0.0, low], [0.0, 0.0], [0.0, low], [0.0, 0.0]] == added[0, 0].tolist()


class Passes:
    """How many forward passes an engine's model has made."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.count = 0
        engine.model.register_forward_hook(self._note)

    def _note(self, *_: object) -> None:
        self.count += 1


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
async def test_a_turn_said_before_takes_fewer_passes_and_says_the_same(make_engine: Any, sampling: Sampling) -> None:
    """The second time, most tokens come several a pass, with the log-probabilities of the first."""
    async with make_engine() as engine:
        passes = Passes(engine)
        first = await say(engine, ALERT, sampling=sampling)
        before = passes.count
        second = await say(engine, ALERT, sampling=sampling)
    assert first.token_ids == second.token_ids
    assert second.logprobs == pytest.approx(first.logprobs, abs=1e-4)
    assert passes.count - before < before / 2


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("wrong", [lambda most: [7] * most, lambda most: [7][:most], lambda most: []])
async def test_wrong_guesses_change_nothing(
    make_engine: Any, monkeypatch: pytest.MonkeyPatch, sampling: Sampling, wrong: Callable[[int], list[int]]
) -> None:
    """Whatever is guessed, turn after turn of a conversation is what it is without."""

    async def conversation() -> list[Turn]:
        async with make_engine() as engine:
            session = engine.open(SYSTEM, ALERT)
            turns = []
            for result in ("[e1] 3 sign-ins", "[e2] no data", "[e3] long long"):
                turns.append(await session.turn(sampling))
                session.add_result(result)
            session.close()
            return turns

    expected = await conversation()
    monkeypatch.setattr(Drafts, "guess", lambda _self, _adapter, _ids, _own, most: wrong(most))
    found = await conversation()
    assert [turn.token_ids for turn in expected] == [turn.token_ids for turn in found]
    for one, other in zip(expected, found, strict=True):
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)


async def test_what_nobody_can_guess_is_guessed_a_token_at_a_time(
    make_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong guess costs as much of a pass as a right one."""
    asked: list[int] = []

    def wrong(_self: Drafts, _adapter: str, _ids: list[int], _own: Conversation, most: int) -> list[int]:
        asked.append(most)
        return [7] * most

    async with make_engine() as engine:
        monkeypatch.setattr(Drafts, "guess", wrong)
        turn = await say(engine, ALERT, sampling=GREEDY)
    assert 7 not in turn.token_ids
    assert [MAX_GUESSES, 1, 1, 1] == asked[:4]


def test_guesses_go_further_while_they_are_right() -> None:
    """One that was wrong ends the next guess where it stood."""
    assert [3, 5, MAX_GUESSES] == [reach_after(1, 1, 1), reach_after(3, 3, 3), reach_after(5, 5, 5)]
    assert [1, 3] == [reach_after(MAX_GUESSES, 6, 0), reach_after(MAX_GUESSES, 6, 2)]
    assert MAX_GUESSES == reach_after(MAX_GUESSES, 1, 1), "no more was known, and that was right"


async def test_no_turn_outgrows_its_limit_by_a_guess(make_engine: Any) -> None:
    """A turn that is guessed to the end stops where its limit is."""
    async with make_engine() as engine:
        await say(engine, ALERT, sampling=GREEDY)
        for limit in range(1, 9):
            turn = await say(engine, ALERT, sampling=Sampling(max_turn_tokens=limit))
            assert len(turn.token_ids) <= limit
