"""Forward passes over the slots of the cache: any number of tokens of any conversations, read in one pass.

A pass has one row for each adapter, in which the tokens of its conversations stand one after another, so that none is
padded to the length of another; only attention takes the row apart (`slot_attention`). Adapters whose rows differ much
in length have passes of their own. In a model of its own the engine makes the adapter that has a pass to itself PEFT's
active one; where there are several, PEFT is told the name of each row's. Used only by `transformers_engine`, from its
worker thread.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from socadapter_agent import own_attention, slot_attention
from socadapter_agent.loaded_adapters import LoadedAdapters
from socadapter_agent.slot_attention import Span
from socadapter_agent.slot_cache import SlotCache
from socadapter_agent.transformers_session import BASE
from socadapter_api.errors import SpecError

_MOST_PADDING = 1.5
"""So many times its tokens a pass of several adapters may be long; beyond, each has a pass of its own."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Tokens of one conversation that a pass reads, from position `start` on; the last `kept` of them give logits."""

    slot: int
    adapter: str
    start: int
    tokens: Sequence[int]
    kept: int = 1

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class SlotModel:
    """A model with its adapters, and the keys and values of the conversations that it reads.

    `owned`: nobody trains the model, so that its format of numbers and its active adapter are the engine's to choose.
    """

    def __init__(self, model: Any, *, slots: int, max_adapters: int, owned: bool) -> None:
        if others := own_attention.other_attention(model):
            raise SpecError(f"the transformers engine serves full attention only, and the base has {others}: use vllm")
        if not own_attention.can_exchange(model):
            raise SpecError(
                f"the transformers engine brings its own attention, and a {type(model).__name__} takes none: use vllm"
            )
        self.adapters = LoadedAdapters(model, max_adapters)
        self._owned = owned
        weight = next(model.parameters())
        self._device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self.cache = SlotCache(model.config, slots, weight.dtype, weight.device)

    @property
    def model(self) -> Any:
        """The base, or PEFT's model around it once an adapter is loaded."""
        return self.adapters.model

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Within the context the model infers; afterwards it is as its owner left it."""
        training = self.model.training
        self.model.eval()
        casts = not self._owned and self.dtype is not torch.float32
        autocast = torch.autocast(self._device.type, dtype=self.dtype, enabled=casts)
        try:
            with torch.inference_mode(), autocast:
                yield
        finally:
            if training:
                self.model.train()

    def read(self, readings: Sequence[Reading]) -> Tensor:
        """Logits of what each reading keeps, one after another, shape (kept in all, vocabulary), float32.

        The cache must have room for every reading and one position more.
        """
        rows: dict[str, list[int]] = {}
        for number, reading in enumerate(readings):
            rows.setdefault(reading.adapter, []).append(number)
        lengths = [sum(len(readings[number].tokens) for number in row) for row in rows.values()]
        if len(rows) * max(lengths) <= _MOST_PADDING * sum(lengths):
            return self._pass(readings, rows)
        found: dict[int, Tensor] = {}
        for adapter, row in rows.items():
            own = [readings[number] for number in row]
            logits = self._pass(own, {adapter: list(range(len(own)))})
            found |= zip(row, torch.split(logits, [reading.kept for reading in own]), strict=True)
        return torch.cat([found[number] for number in range(len(readings))])

    def _pass(self, readings: Sequence[Reading], rows: Mapping[str, Sequence[int]]) -> Tensor:
        """One pass; `rows` has the numbers of each adapter's readings."""
        length = max(sum(len(readings[number].tokens) for number in row) for row in rows.values())
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        slots, positions = torch.zeros_like(ids), torch.full_like(ids, self.cache.unread)
        places: dict[int, int] = {}  # where each reading begins in the pass, its rows one after another
        for row, numbers in enumerate(rows.values()):
            column = 0
            for number in numbers:
                reading = readings[number]
                own = slice(column, column + len(reading.tokens))
                ids[row, own] = torch.tensor(reading.tokens)
                slots[row, own] = reading.slot
                positions[row, own] = torch.arange(reading.start, reading.end)
                places[number] = row * length + column
                column = own.stop
        ends = [places[number] + len(reading.tokens) for number, reading in enumerate(readings)]
        kept = torch.cat([torch.arange(end - r.kept, end) for end, r in zip(ends, readings, strict=True)])
        columns, which = torch.unique(kept % length, return_inverse=True)
        self.cache.place(slots, positions, max(reading.end for reading in readings))
        plan = slot_attention.plan(
            [Span(reading.slot, reading.start, places[n], len(reading.tokens)) for n, reading in enumerate(readings)],
            self.cache.heads_of_a_group,
            self.dtype,
            self._device,
        )
        with own_attention.attending(self.model.config, slot_attention.SLOTS), self._without_leftovers():
            output = self.model(
                input_ids=ids.to(self._device),
                attention_mask=torch.zeros(1, 1, 1, 1, dtype=self.dtype, device=self._device),  # the plan has the masks
                position_ids=positions.masked_fill(positions == self.cache.unread, 0).to(self._device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=columns.to(self._device),
                slots=plan,
                **self._addressed(list(rows)),
            )
        logits: Tensor = output.logits[kept // length, which].float().cpu()
        return logits

    @contextlib.contextmanager
    def _without_leftovers(self) -> Iterator[None]:
        """Where a pass that names adapters fails, PEFT leaves their names on its layers for whatever passes next."""
        try:
            yield
        except Exception:
            from peft.tuners.tuners_utils import BaseTunerLayer

            for module in self.model.modules():
                if isinstance(module, BaseTunerLayer):
                    module._forward_pre_hooks.clear()
            raise

    def _addressed(self, adapters: list[str]) -> dict[str, list[str]]:
        """How PEFT learns of each row's adapter: by its name, or, where all rows use the active one, not at all."""
        if not self.adapters.names:
            return {}
        if self._owned:
            alone = len(adapters) == 1 and adapters[0] != BASE
            if alone:
                self.adapters.activate(adapters[0])
        else:
            alone = len(adapters) == 1 and adapters == list(self.model.active_adapters)
        return {} if alone else {"adapter_names": adapters}
