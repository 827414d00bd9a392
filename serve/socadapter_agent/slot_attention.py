"""Attention of conversations to their slots of the cache, out of a pass in which their tokens stand one after another.

Spans are attended to in batches of like length, padded to the longest. Of short ones, slots that lie close together
are attended to without a copy. Several heads share a group of keys and values: transformers writes a copy of
these for each head, which on a CPU takes longer than the attention; here the heads of a group stand one after another
in the group's own sequence of queries. Used only by `slot_model`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from socadapter_api.errors import SpecError

SLOTS = "socadapter_slots"
_MORE = ("softcap", "s_aux", "position_bias")
_SHORT = 8
"""A decode step's tokens with its guesses; more are those of something new to read."""


class Span(NamedTuple):
    """The tokens that a pass reads of one conversation."""

    slot: int
    start: int
    """The position of the first in the conversation."""
    place: int
    """Where the first stands in the pass."""
    length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Spans of like length that are attended to together."""

    slots: slice | Tensor
    """The rows of keys and values: a range, in which some may be idle, or indices of shape (rows,)."""
    places: Tensor
    """Where each query stands in the pass, shape (rows, longest); 0 for padding."""
    real: Tensor
    """Which of these, one row after another, are no padding."""
    mask: Tensor
    """What is added to the scores, shape (rows, 1, heads of a group times longest, readable)."""


def plan(spans: Sequence[Span], heads_of_a_group: int, dtype: torch.dtype, device: torch.device) -> list[Batch]:
    """The batches of a pass that reads `spans`."""
    batches: dict[int, list[Span]] = {}
    for span in sorted(spans):
        batches.setdefault(max(_SHORT, span.length - 1).bit_length(), []).append(span)
    return [_batch(batch, heads_of_a_group, dtype, device) for batch in batches.values()]


def _batch(spans: Sequence[Span], heads_of_a_group: int, dtype: torch.dtype, device: torch.device) -> Batch:
    lowest, highest = spans[0].slot, spans[-1].slot
    longest, readable = max(span.length for span in spans), max(span.start + span.length for span in spans)
    close = longest <= _SHORT and highest - lowest + 1 <= 2 * len(spans)
    rows = [span.slot - lowest for span in spans] if close else list(range(len(spans)))
    places = torch.zeros(rows[-1] + 1, longest, dtype=torch.long)
    reach, real = torch.zeros_like(places), torch.zeros_like(places, dtype=torch.bool)
    for row, (_, start, place, length) in zip(rows, spans, strict=True):
        places[row, :length] = torch.arange(place, place + length)
        reach[row, :length] = torch.arange(start, start + length)
        real[row, :length] = True
    hidden = torch.arange(readable)[None, None, None, :] > reach[:, None, :, None]
    slots = slice(lowest, highest + 1) if close else torch.tensor([span.slot for span in spans], device=device)
    mask = for_groups(hidden, heads_of_a_group, dtype)
    return Batch(slots, places.to(device), real.flatten().nonzero()[:, 0].to(device), mask.to(device))


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
        rows, longest = batch.places.shape
        readable = batch.mask.shape[-1]
        by_group = queries[batch.places].transpose(1, 2).reshape(rows, key.shape[1], -1, size)
        mixed = functional.scaled_dot_product_attention(
            by_group,
            key[batch.slots, :, :readable],
            value[batch.slots, :, :readable],
            batch.mask.to(query.dtype),
            dropout,
            scale=scaling,
        )
        by_token = mixed.reshape(rows, heads, longest, -1).transpose(1, 2).flatten(0, 1)
        found[batch.places.flatten()[batch.real]] = by_token[batch.real]
    return found.reshape(adapters, length, heads, -1), None


AttentionInterface.register(SLOTS, slot_attention)
