"""A key-value cache with one slot per open conversation, kept from turn to turn.

Each slot stores the keys and values of one conversation at the index of their position; a pass writes new tokens at
their own. Nothing is concatenated or re-computed between turns. Used only by the in-process engine.
"""

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig

_GROW_TOKENS = 256

Prefix = list[tuple[Tensor, Tensor]]
"""Per layer, keys and values of shape (kv_heads, tokens, head_dim)."""


class SlotCache(Cache):
    """Keys and values of shape (slots, kv_heads, capacity, head_dim) per layer.

    `place` says where the next forward pass writes its tokens and how much of the cache it may read. The last position
    of every slot takes what padding writes; nothing reads it.
    """

    def __init__(self, config: PreTrainedConfig, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layers=[])
        heads = config.num_attention_heads
        self._kv_heads = getattr(config, "num_key_value_heads", None) or heads
        self._head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.heads_of_a_group = heads // self._kv_heads
        self._layers = config.num_hidden_layers
        self._slots = slots
        self._dtype, self._device = dtype, device
        self._capacity = 0
        self._asked = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._write_slots = torch.empty(0)
        self._positions = torch.empty(0)
        self._readable = 0

    @property
    def size_bytes(self) -> int:
        """What the keys and values of all slots take."""
        return sum(tensor.nbytes for tensor in (*self._keys, *self._values))

    def reserve(self, tokens: int) -> None:
        """Makes room for conversations of `tokens` tokens, in every slot."""
        self._asked = max(self._asked, tokens)
        if tokens < self._capacity:
            return
        capacity = _capacity_for(tokens)
        shape = (self._slots, self._kv_heads, capacity, self._head_dim)
        for tensors in (self._keys, self._values):
            for layer in range(self._layers):  # one after another: old and new of a single layer lie side by side
                grown = torch.zeros(shape, dtype=self._dtype, device=self._device)
                for old in tensors[layer : layer + 1]:
                    kept = min(old.shape[2], capacity) - 1
                    grown[:, :, :kept] = old[:, :, :kept]
                tensors[layer : layer + 1] = [grown]
        self._capacity = capacity

    def shrink(self) -> bool:
        """Gives all room back, and what it held, where less than half of it was asked for since the last call.

        No slot may be in use. Returns whether it did.
        """
        wasteful = bool(self._asked) and _capacity_for(self._asked) * 2 < self._capacity
        if wasteful:
            self._capacity = 0
            self._keys, self._values = [], []
        self._asked = 0
        return wasteful

    @property
    def unread(self) -> int:
        """The position that takes what padding writes."""
        return self._capacity - 1

    def place(self, slots: Tensor, positions: Tensor, readable: int) -> None:
        """Says where the next pass writes its tokens: slots and positions, both of shape (rows, tokens).

        `readable` is how many positions the pass may read.
        """
        self._write_slots, self._positions = slots.to(self._device), positions.to(self._device)
        self._readable = readable

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Writes the new keys and values (rows, kv_heads, tokens, head_dim), and returns all that may be read, of all
        slots."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._write_slots, :, self._positions] = key_states.transpose(1, 2).to(self._dtype)
        values[self._write_slots, :, self._positions] = value_states.transpose(1, 2).to(self._dtype)
        return keys[:, :, : self._readable], values[:, :, : self._readable]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def copy_out(self, slot: int, tokens: int) -> Prefix:
        """The first `tokens` positions of a slot, as a copy."""
        return [
            (keys[slot, :, :tokens].clone(), values[slot, :, :tokens].clone())
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def copy_in(self, slot: int, prefix: Prefix) -> None:
        """Starts a slot with a prefix computed before."""
        for (keys, values), own_keys, own_values in zip(prefix, self._keys, self._values, strict=True):
            own_keys[slot, :, : keys.shape[1]] = keys
            own_values[slot, :, : values.shape[1]] = values

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Copies what `source` holds of the positions from `start` to before `end` into another slot."""
        for tensor in (*self._keys, *self._values):
            tensor[target, :, start:end] = tensor[source, :, start:end]


def _capacity_for(tokens: int) -> int:
    """The room of a slot that holds `tokens` tokens and what padding writes."""
    return (tokens // _GROW_TOKENS + 1) * _GROW_TOKENS
