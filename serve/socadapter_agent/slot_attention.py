"""Attention of a batch of conversations to their slots of the cache, without copying keys and values.

Several heads share a group of keys and values. Transformers writes a copy of these for each head where more than one
token is read, and on a CPU that takes longer than the attention. Here the heads of a group stand one after another in
the group's own sequence of queries. Used only by `transformers_engine`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from socadapter_api.errors import SpecError

SLOTS = "socadapter_slots"
_MORE = ("softcap", "s_aux", "position_bias")


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; the mask is `for_groups`'s.

    `query` is of shape (batch, heads, tokens, size), `key` and `value` of (batch, groups, readable, size).

    Raises:
        SpecError: the model asks for more than plain attention.
    """
    if asked := [name for name in _MORE if more.get(name) is not None]:
        raise SpecError(f"the transformers engine has plain attention only, and the base asks for {asked}: use vllm")
    batch, heads, tokens, size = query.shape
    by_group = query.reshape(batch, key.shape[1], -1, size)
    mask = attention_mask.to(query.dtype)
    mixed = functional.scaled_dot_product_attention(by_group, key, value, mask, dropout, scale=scaling)
    return mixed.reshape(batch, heads, tokens, -1).transpose(1, 2), None


AttentionInterface.register(SLOTS, slot_attention)


def for_groups(mask: Tensor, heads_of_a_group: int, dtype: torch.dtype) -> Tensor:
    """What `slot_attention` adds to the scores, for a boolean `mask` of shape (batch, 1, tokens, readable)."""
    added = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))
    return added.repeat(1, 1, heads_of_a_group, 1)
