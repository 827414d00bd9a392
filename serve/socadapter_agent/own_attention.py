"""Exchanges the attention function of a transformers model for one of ours, for as long as a pass takes.

`slot_attention` does so for serving and sampling, the training head of the jobs for its packed rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def can_exchange(model: Any) -> bool:
    """Whether `model` attends by a function that can be exchanged, and by plain attention: no caps, biases or sinks."""
    exchangeable = getattr(model, "_supports_attention_backend", False)
    return bool(exchangeable and getattr(model, "_supports_sdpa", False))


@contextmanager
def attending(config: Any, name: str) -> Iterator[None]:
    """Lets the model of `config` attend by the function registered under `name` within the context."""
    usual = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = usual
