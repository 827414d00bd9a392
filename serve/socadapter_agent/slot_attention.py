"""Attention of conversations to their slots of the cache, out of a pass in which their tokens stand one after another.

Short readings and long ones are attended to apart, each as one batch, padded among its like. Slots that lie close
together are read without a copy. Several heads share a group of keys and values: transformers writes a copy of these
for each head, which on a CPU takes longer than the attention; here the heads of a group stand one after another in the
group's own sequence of queries. Used only by `slot_model`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from socadapter_api.errors import SpecError

SLOTS = "socadapter_slots"
_MORE = ("softcap", "s_aux", "position_bias")
_SHORT = 8
"""A decode step's tokens with its guesses; more are those of something new to read."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings of like length that are attended to together."""

    slots: slice | Tensor
    """The rows of keys and values: a range, in which some may be idle, or indices of shape (rows,)."""
    tokens: Tensor
    """Where each query stands in the pass, shape (rows, longest); anything where `real` is False."""
    real: Tensor
    mask: Tensor
    """What is added to the scores, shape (rows, 1, heads of a group times longest, readable)."""


def plan(
    readings: Sequence[tuple[int, int, int, int]], heads_of_a_group: int, dtype: torch.dtype, device: torch.device
) -> list[Batch]:
    """The batches of a pass; a reading is its slot, its first position, where it begins in the pass, and its length."""
    found = []
    for short in (True, False):
        chosen = sorted(reading for reading in readings if (reading[3] <= _SHORT) is short)
        if chosen:
            found.append(_batch(chosen, heads_of_a_group, dtype, device))
    return found


def _batch(
    readings: Sequence[tuple[int, int, int, int]], heads_of_a_group: int, dtype: torch.dtype, device: torch.device
) -> Batch:
    lowest, highest = readings[0][0], readings[-1][0]
    close = highest - lowest + 1 <= 2 * len(readings)
    rows = [slot - lowest for slot, *_ in readings] if close else list(range(len(readings)))
    count, longest = rows[-1] + 1, max(length for *_, length in readings)
    readable = max(start + length for _, start, _, length in readings)
    tokens, reach = torch.zeros(count, longest, dtype=torch.long), torch.zeros(count, longest, dtype=torch.long)
    real = torch.zeros(count, longest, dtype=torch.bool)
    for row, (_, start, place, length) in zip(rows, readings, strict=True):
        tokens[row, :length] = torch.arange(place, place + length)
        reach[row, :length] = torch.arange(start, start + length)
        real[row, :length] = True
    hidden = torch.arange(readable)[None, None, None, :] > reach[:, None, :, None]
    slots = slice(lowest, highest + 1) if close else torch.tensor([slot for slot, *_ in readings], device=device)
    return Batch(slots, tokens.to(device), real.to(device), for_groups(hidden, heads_of_a_group, dtype).to(device))


def for_groups(hidden: Tensor, heads_of_a_group: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores where `hidden`, of shape (rows, 1, tokens, readable), is True, head by head."""
    added = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, float("-inf"))
    return added.repeat(1, 1, heads_of_a_group, 1)


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    slots: Sequence[Batch],
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; the masks are those of the batches in `slots`.

    `query` is of shape (adapters, heads, tokens, size), `key` and `value` are all slots', (slots, groups, capacity,
    size).

    Raises:
        SpecError: the model asks for more than plain attention.
    """
    if asked := [name for name in _MORE if more.get(name) is not None]:
        raise SpecError(f"the transformers engine has plain attention only, and the base asks for {asked}: use vllm")
    adapters, heads, length, size = query.shape
    queries = query.transpose(1, 2).reshape(adapters * length, heads, size)
    found = queries.new_zeros(adapters * length, heads, value.shape[-1])
    for batch in slots:
        rows, longest = batch.tokens.shape
        readable = batch.mask.shape[-1]
        by_group = queries[batch.tokens].transpose(1, 2).reshape(rows, key.shape[1], -1, size)
        mixed = functional.scaled_dot_product_attention(
            by_group,
            key[batch.slots, :, :readable],
            value[batch.slots, :, :readable],
            batch.mask.to(query.dtype),
            dropout,
            scale=scaling,
        )
        by_token = mixed.reshape(rows, heads, longest, -1).transpose(1, 2)
        found[batch.tokens[batch.real]] = by_token[batch.real]
    return found.reshape(adapters, length, heads, -1), None


AttentionInterface.register(SLOTS, slot_attention)
