"""Exchanges the attention function of a transformers model for one of ours, for as long as a pass takes.

`slot_attention` does so for serving and sampling, the training head of the jobs for its packed rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def can_exchange(model: Any) -> bool:
    """Whether `model` attends by a function that can be exchanged; whether it asks more of it, such as caps, shows in a
    pass."""
    exchangeable = getattr(model, "_supports_attention_backend", False)
    return bool(exchangeable and getattr(model, "_supports_sdpa", False))


def other_attention(model: Any) -> list[str]:
    """What `model` does other than attend to all tokens before in every layer; empty where it does nothing else."""
    config: Any = model.config.get_text_config()
    found = set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    window = getattr(config, "sliding_window", None)
    return sorted(found) if window is None else [*sorted(found), f"a window of {window} tokens"]


@contextmanager
def attending(config: Any, name: str) -> Iterator[None]:
    """Lets the model of `config` attend by the function registered under `name` within the context."""
    usual = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = usual
