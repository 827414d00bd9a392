"""A batch's rows as one sequence without padding, in which what rows begin with in common stands once.

Investigations begin with the same instructions, those of a group with the same alert, and as long as they ask the same
they read the same. A token's hidden state depends on nothing but the tokens before it, so that one copy serves all rows
that it belongs to, and gradients of all of them meet in it. The rows form a tree of spans; each span attends to itself
and to its path from the root. Called by `lean_head`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from socadapter_agent import own_attention

_LEAST_SHARED_TOKENS = 16
"""Fewer cost less to compute again than to attend to as a span of their own."""

_PACKED = "socadapter_packed"
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens that follow each other in the packed sequence, from `start` to before `end`; `path` is what they follow:
    the spans, as (start, end), from the root to their parent."""

    start: int
    end: int
    path: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch of shape (rows, columns) as one sequence. Its tensors but `places` are of shape (tokens,)."""

    ids: Int[Tensor, "tokens"]
    positions: Int[Tensor, "tokens"]
    """Of each token in its row."""
    before: Int[Tensor, "tokens"]
    """Where the token stands that it follows; `NOWHERE` for the first of a row."""
    places: Int[Tensor, "rows columns"]
    """Where each token of the batch stands; `NOWHERE` for padding."""
    spans: tuple[Span, ...]

    @property
    def longest_path(self) -> int:
        """In tokens."""
        return max((sum(end - start for start, end in span.path) for span in self.spans), default=0)


def pack(ids: Int[Tensor, "rows columns"], mask: Tensor, *, share: bool = True) -> Packed:
    """The rows, padded on either side, as one sequence; what they have in common once, unless `share` is False."""
    real = mask.bool()
    columns = [row.nonzero()[:, 0] for row in real]
    rows = [row[own].tolist() for row, own in zip(ids, columns, strict=True)]
    filled = [number for number, row in enumerate(rows) if row]
    trees = [filled] if share else [[number] for number in filled]
    places = torch.full_like(ids, NOWHERE)
    spans: list[Span] = []
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in (part for tree in trees for part in _parts(rows, tree)):
        start = spans[-1].end if spans else 0
        path = part.path(spans)
        length = part.end - part.start
        spans.append(Span(start, start + length, path))
        where = torch.arange(start, start + length)
        for row in part.rows:
            places[row, columns[row][part.start : part.end]] = where
        before = where - 1
        before[0] = path[-1][1] - 1 if path else NOWHERE
        own = ids[part.rows[0], columns[part.rows[0]][part.start : part.end]]
        parts.append((own, torch.arange(part.start, part.end), before))
    tokens, positions, followed = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Packed(tokens, positions, followed, places, tuple(spans))


@dataclass(frozen=True, slots=True)
class _Part:
    """Tokens `start` to before `end` of `rows`, which have them and all before in common; `parents` are its path's
    numbers among the parts."""

    rows: list[int]
    start: int
    end: int
    parents: tuple[int, ...]

    def path(self, spans: Sequence[Span]) -> tuple[tuple[int, int], ...]:
        return tuple((spans[number].start, spans[number].end) for number in self.parents)


def _parts(rows: Sequence[list[int]], tree: list[int]) -> Iterator[_Part]:
    """The tree over the rows numbered in `tree`, parents first. What too few tokens have in common is not shared."""
    found = 0
    waiting: list[tuple[list[int], int, int, tuple[int, ...]]] = [(tree, 0, 0, ())]
    while waiting:
        own, start, agreed, parents = waiting.pop()
        end = _agreement([rows[row] for row in own], agreed)
        if len(own) == 1 or end - start >= _LEAST_SHARED_TOKENS:
            yield _Part(own, start, end, parents)
            start, parents, found = end, (*parents, found), found + 1
        else:
            for row in (row for row in own if len(rows[row]) == end > start):
                yield _Part([row], start, end, parents)
                found += 1
        by_next: dict[int, list[int]] = {}
        for row in (row for row in own if len(rows[row]) > end):
            by_next.setdefault(rows[row][end], []).append(row)
        waiting += [(group, start, end, parents) for _, group in sorted(by_next.items(), reverse=True)]


def _agreement(rows: Sequence[list[int]], agreed: int) -> int:
    """How many first tokens `rows` have in common, which agree in the first `agreed`."""
    shortest = min(map(len, rows))
    return next((at for at in range(agreed, shortest) if len({row[at] for row in rows}) > 1), shortest)


def attends_packed(model: PreTrainedModel) -> bool:
    """Whether every layer of `model` attends to all tokens before, by a function that can be exchanged."""
    return own_attention.can_exchange(model) and not own_attention.other_attention(model)


def hidden_states(model: PreTrainedModel, packed: Packed) -> Float[Tensor, "tokens width"]:
    """The backbone's last hidden states of the packed tokens; `model` must be one that `attends_packed`."""
    backbone: Any = model.base_model
    with own_attention.attending(backbone.config, _PACKED):
        out = backbone(
            input_ids=packed.ids[None],
            attention_mask=_mask(packed, model.dtype),
            position_ids=packed.positions[None],
            use_cache=False,
            packed=packed,
        )
    return cast(Tensor, out.last_hidden_state)[0]


def _mask(packed: Packed, dtype: torch.dtype) -> Float[Tensor, "1 1 length length_and_path"] | None:
    """What the longest span after the longest path may attend to, for all layers; None where no span has a path."""
    path = packed.longest_path
    if not path:
        return None
    longest = max(span.end - span.start for span in packed.spans if span.path)
    mask = torch.full((longest, path + longest), float("-inf"), dtype=dtype, device=packed.ids.device)
    return mask.triu(path + 1)[None, None]


def packed_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads tokens size"],
    key: Float[Tensor, "1 groups tokens size"],
    value: Float[Tensor, "1 groups tokens size"],
    attention_mask: Tensor | None,
    *,
    packed: Packed,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Float[Tensor, "1 tokens heads size"], None]:
    """Causal attention of each span to itself and its path. An attention function of transformers.

    `attention_mask` is `_mask`'s: that of a span is a part of it.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (kv.repeat_interleave(repeats, 1) if repeats > 1 else kv for kv in (key, value))
    longest = packed.longest_path
    parts = []
    for span in packed.spans:
        own_key, own_value, part_mask = key[:, :, span.start : span.end], value[:, :, span.start : span.end], None
        if span.path:
            own_key = torch.cat([*(key[:, :, start:end] for start, end in span.path), own_key], 2)
            own_value = torch.cat([*(value[:, :, start:end] for start, end in span.path), own_value], 2)
            length, path = span.end - span.start, sum(end - start for start, end in span.path)
            part_mask = cast(Tensor, attention_mask)[0, 0, :length, longest - path : longest + length].to(query.dtype)
        part = functional.scaled_dot_product_attention(
            query[:, :, span.start : span.end],
            own_key,
            own_value,
            part_mask,
            dropout,
            is_causal=part_mask is None,
            scale=scaling,
        )
        parts.append(part)
    return torch.cat(parts, 2).transpose(1, 2), None


AttentionInterface.register(_PACKED, packed_attention)
