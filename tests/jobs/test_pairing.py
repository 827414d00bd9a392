"""Training reads an attack beside another alert of its title, every example once an epoch, alike for one seed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_jobs.examples import Example
from socadapter_jobs.pairing import reading_order


def example(title: str, attack: bool) -> Example:
    return Example([1], [1], [1.0], title, attack)


KINDS = st.tuples(st.sampled_from(["logon", "scan", ""]), st.booleans())


@given(st.lists(KINDS, min_size=1, max_size=40), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_reads_every_example_once(kinds: list[tuple[str, bool]], epochs: int, seed: int) -> None:
    """And as many pairs of one title and both kinds as the titles allow, each at an even place of its epoch."""
    examples = [example(*kind) for kind in kinds]
    order = reading_order(examples, epochs * len(examples), seed)
    tally = Counter(kinds)
    possible = sum(min(tally[title, True], tally[title, False]) for title in {title for title, _ in kinds})
    for start in range(0, len(order), len(examples)):
        epoch = order[start : start + len(examples)]
        assert list(range(len(examples))) == sorted(epoch)
        pairs = [(examples[a], examples[b]) for a, b in zip(epoch[::2], epoch[1::2], strict=False)]
        mixed = [a for a, b in pairs if a.title == b.title and a.attack != b.attack]
        assert possible <= len(mixed)


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
