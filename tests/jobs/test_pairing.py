"""Training reads an attack beside another alert of its title, every example once an epoch, alike for one seed."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_jobs.examples import Example
from socadapter_jobs.pairing import reading_order


def example(title: str, attack: bool) -> Example:
    return Example([1], [1], [1.0], title, attack)


KINDS = st.tuples(st.sampled_from(["logon", "scan", ""]), st.booleans())
Likeness = Callable[[Example], Any]


def possible(examples: list[Example], likeness: Likeness) -> int:
    """How many attacks can have company that is alike in this."""
    tally = Counter((likeness(example), example.attack) for example in examples)
    return sum(min(count, tally[like, False]) for (like, attack), count in tally.items() if attack)


@given(st.lists(KINDS, min_size=1, max_size=40), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_reads_every_example_once(kinds: list[tuple[str, bool]], epochs: int, seed: int) -> None:
    """And as many pairs of both kinds as there can be, at even places, of one title before the rest; what odd epochs
    leave over comes after all pairs."""
    examples = [example(*kind) for kind in kinds]
    order = reading_order(examples, epochs * len(examples), seed)
    paired = len(examples) // 2 * 2
    alone = order[epochs * paired :]
    for number in range(epochs):
        epoch = order[number * paired : (number + 1) * paired]
        assert list(range(len(examples))) == sorted(epoch + alone[number : number + 1])
        pairs = [(examples[a], examples[b]) for a, b in zip(epoch[::2], epoch[1::2], strict=True)]
        mixed = [(a, b) for a, b in pairs if a.attack != b.attack]
        assert possible(examples, lambda _: "") == len(mixed)
        assert possible(examples, lambda e: e.title) == len([a for a, b in mixed if a.title == b.title])


def test_a_rare_attack_has_company_and_is_read_once() -> None:
    """One attack among forty alerts is paired; the others are read as often as it."""
    examples = [example("logon", place == 7) for place in range(40)]
    order = reading_order(examples, 40, 0)
    place = order.index(7)
    partner = order[place + 1 if place % 2 == 0 else place - 1]
    assert not examples[partner].attack
    assert 40 == len(set(order))


def test_the_seed_decides() -> None:
    """The same order for the same seed, another for another, and another in the next epoch."""
    examples = [example(f"title {place % 5}", place % 2 == 0) for place in range(30)]
    order = reading_order(examples, 60, 3)
    assert order == reading_order(examples, 60, 3)
    assert order != reading_order(examples, 60, 4)
    assert order[:30] != order[30:]


@pytest.mark.parametrize("count", [pytest.param(7, id="part of an epoch"), pytest.param(25, id="two and a half")])
def test_so_many_as_asked_for(count: int) -> None:
    """Epochs need not be whole; what is read is the beginning of what more would read."""
    examples = [example("title", place % 2 == 0) for place in range(10)]
    order = reading_order(examples, count, 0)
    assert count == len(order)
    assert reading_order(examples, 40, 0)[:count] == order
