"""A byte-level tokenizer, and models of a few thousand parameters: one plain, one that says what it is told to."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROLS = ("<|im_start|>", "<|im_end|>")


def byte_tokenizer(
    template: str | None = CHAT_TEMPLATE, controls: tuple[str, ...] = CONTROLS, special: bool = True
) -> Any:
    """A token for each byte, and the controls."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_tokens([AddedToken(text, special=special, normalized=False) for text in controls])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens)
    tokenizer.chat_template = template
    return tokenizer


def tiny_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.5,  # so that the best token wins clearly, whatever the order of summation
        bos_token_id=None,
        eos_token_id=None,
    )


class Steered(LlamaForCausalLM):
    """A model whose token after position `p` is pushed towards those of `script[p]`."""

    script: Mapping[int, tuple[int, ...]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(output.logits.shape[1])[None]
        asked = kwargs.get("logits_to_keep")
        kept = positions[:, -output.logits.shape[1] :] if asked is None else positions[:, asked]
        kept = kept.expand(output.logits.shape[:2])
        for row, column in ((r, c) for r in range(kept.shape[0]) for c in range(kept.shape[1])):
            for token in self.script.get(int(kept[row, column]), ()):
                output.logits[row, column, token] += 60.0
        return output
