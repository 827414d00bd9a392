"""A tiny Qwen3-like base with TRL's Qwen3 chat template: for comparing loops, and for trying the benchmarks out.

Its tokenizer knows the words of the texts that it is made from, so that a turn is a few tokens as it is with a real
base. Its weights are random.
"""

from collections.abc import Mapping, Sequence
from functools import wraps
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from socadapter_agent import protocol

_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_VOCABULARY = 1024
_CERTAIN = 1e4


def tiny_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `texts` with Qwen3's control tokens and TRL's copy of its chat template."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, initial_alphabet=sorted(alphabet), show_progress=False)
    tokens.train_from_iterator(texts, trainer)
    tokens.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in _CONTROLS])
    tokens.add_tokens([AddedToken(text, special=False, normalized=False) for text in _TAGS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (files("trl") / "chat_templates" / "qwen3.jinja").read_text("utf-8")
    return tokenizer


class Told(Qwen3ForCausalLM):
    """A model that computes as always, and says after position `p` the token ``script[p]`` where there is one.

    By position, so that any loop around it, batched in whichever way, writes the same turns.
    """

    script: Mapping[int, int] = MappingProxyType({})

    @wraps(Qwen3ForCausalLM.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        positions = kwargs.get("position_ids")
        if positions is not None and self.script:
            asked = kwargs.get("logits_to_keep", 0)
            kept = positions[:, asked] if isinstance(asked, torch.Tensor) else positions[:, -output.logits.shape[1] :]
            for row, places in enumerate(kept.tolist()):
                for column, place in enumerate(places):
                    if place in self.script:
                        output.logits[row, column, self.script[place]] += _CERTAIN
        return output


def tiny_model(vocabulary: int) -> Told:
    """A model with random weights, the same on every call."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    return Told(config)


def script_of(turns: Sequence[tuple[int, Sequence[int]]]) -> dict[int, int]:
    """The script by which a turn begins after each given number of tokens."""
    return {start - 1 + place: token for start, turn in turns for place, token in enumerate(turn)}


def save_tiny_base(folder: Path, texts: Sequence[str] = ()) -> Path:
    """A base in `folder` that can be named by ``--base``."""
    tokenizer = tiny_tokenizer([protocol.system_prompt(()), *texts])
    tokenizer.save_pretrained(folder)
    tiny_model(len(tokenizer)).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    import sys

    print(save_tiny_base(Path(sys.argv[1])))
