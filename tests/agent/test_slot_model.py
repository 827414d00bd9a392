"""Passes over the cache against plain forward passes: whatever stands in one, each reading gets its own logits."""

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.agent.talking import ALERTS, SHORT, say
from transformers import LlamaForCausalLM

from socadapter_agent.slot_attention import Span, plan
from socadapter_agent.slot_model import Reading, SlotModel
from socadapter_agent.transformers_session import BASE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
]

SLOTS = 24


def conversations(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(250) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize(
    ("slots", "lengths", "more", "whose"),
    [
        pytest.param((0, 1, 2), (5, 5, 5), (1, 1, 1), (BASE,) * 3, id="a step of neighbours"),
        pytest.param((0, 3, 4), (9, 2, 7), (1, 7, 3), (BASE,) * 3, id="a range with idle slots"),
        pytest.param((20, 1, 9), (9, 2, 7), (1, 7, 3), (BASE,) * 3, id="slots far apart"),
        pytest.param((7, 0, 3, 2), (4, 60, 3, 17), (70, 1, 9, 33), (BASE,) * 4, id="short and long"),
        pytest.param((2, 0, 1), (6, 40, 3), (2, 3, 4), ("one", "one", "one"), id="an adapter alone"),
        pytest.param((5, 0, 3, 9), (6, 8, 3, 11), (5, 6, 4, 7), ("one", BASE, "two", "one"), id="adapters mixed"),
        pytest.param((5, 0, 3), (6, 50, 3), (60, 1, 2), ("one", BASE, "two"), id="adapters apart"),
    ],
)
def test_each_reading_gets_the_logits_of_its_conversation(
    base_dir: Path,
    adapters: dict[str, Path],
    slots: tuple[int, ...],
    lengths: tuple[int, ...],
    more: tuple[int, ...],
    whose: tuple[str, ...],
) -> None:
    """A first pass with all conversations, and a second that goes on in each, with the logits of all its tokens."""
    model = SlotModel(LlamaForCausalLM.from_pretrained(base_dir), slots=SLOTS, max_adapters=4, owned=True)
    folders = dict(zip(("one", "two"), adapters.values(), strict=False))
    for name, folder in folders.items():
        model.adapters.load(name, folder)
    said, new = conversations(1, lengths), conversations(2, more)
    model.cache.reserve(200)
    with model.inference():
        model.read([Reading(slot, name, 0, ids) for slot, name, ids in zip(slots, whose, said, strict=True)])
        readings = [
            Reading(slot, name, len(before), ids, kept=len(ids))
            for slot, name, before, ids in zip(slots, whose, said, new, strict=True)
        ]
        found = torch.split(model.read(readings), [reading.kept for reading in readings])
    for name, before, ids, logits in zip(whose, said, new, found, strict=True):
        plain = LlamaForCausalLM.from_pretrained(base_dir)
        alone = plain if name == BASE else PeftModel.from_pretrained(plain, str(folders[name]))
        with torch.no_grad():
            expected = alone.eval()(torch.tensor([[*before, *ids]])).logits[0, len(before) :]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_batches_hold_readings_of_like_length() -> None:
    """One long reading does not make the others as long as itself, and every token has its place."""
    spans = [Span(slot, 0, 20 * slot, 20) for slot in range(6)] + [Span(6, 100, 120, 1), Span(7, 0, 121, 2000)]
    batches = plan(spans, 3, torch.float32, torch.device("cpu"))
    assert [(6, 20), (1, 1), (1, 2000)] == [tuple(batch.places.shape) for batch in batches]
    places = torch.cat([batch.places.flatten()[batch.real] for batch in batches])
    assert list(range(2121)) == sorted(places.tolist())
    assert [20, 101, 2000] == [batch.mask.shape[-1] for batch in batches]


async def test_a_pass_that_failed_leaves_no_adapter_behind(make_engine: Any, adapters: dict[str, Path]) -> None:
    """PEFT would go on to answer with the adapter, or the base, of the pass that failed."""
    one = next(iter(adapters))
    async with make_engine() as engine:
        await engine.load_adapter(one, adapters[one])
        expected = {name: (await say(engine, ALERTS[1], name)).token_ids for name in (one, None)}
        for failing, asked in ((None, one), (one, None)):
            with _failing(engine.model.get_base_model()), pytest.raises(RuntimeError, match="out of memory"):
                await say(engine, ALERTS[2], failing, SHORT)
            assert expected[asked] == (await say(engine, ALERTS[1], asked)).token_ids


@contextlib.contextmanager
def _failing(model: LlamaForCausalLM) -> Any:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    works, model.forward = model.forward, fails
    try:
        yield
    finally:
        model.forward = works
