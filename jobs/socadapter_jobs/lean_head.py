"""A training step on a CPU that computes only what the loss needs.

TRL's fused head scores every position of a batch where it has no Triton, in float32: on a CPU that is more than half
of a training step, for tokens whose loss is then masked out. Here the scored positions are selected first, padding is
packed away, and the instructions that all rows of a batch start with go through the model once instead of once a row;
gradients through them included. Log-probabilities, entropies and gradients equal the plain computation. On a GPU
TRL's own kernel stays. Called by the sft and grpo stages after their trainer is built.
"""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

_CHUNK_POSITIONS = 256
_MIN_SHARED_TOKENS = 16
_SPECIAL_HEADS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
    "output_router_logits",
)
IGNORED = -100


class LeanHead:
    """Replaces the fused head of the model inside `policy`; a no-op unless that is a plain head on a CPU."""

    def __init__(self, policy: PeftModel, temperature: float = 1.0) -> None:
        self._temperature = temperature
        self._scored: Tensor | None = None
        model = policy.get_base_model()
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"the policy's base is a {type(model).__name__}, not a transformers model")
        if next(model.parameters()).device.type == "cpu" and is_plain(model):
            self._install(model)

    @contextmanager
    def only(self, scored: Tensor) -> Iterator[None]:
        """Within the context, only completion positions where `scored` (batch, completion) is non-zero are computed;
        the others come back as zero, which the caller's mask removes anyway."""
        self._scored = scored
        try:
            yield
        finally:
            self._scored = None

    def _install(self, model: PreTrainedModel) -> None:
        fused = model.forward

        def forward(
            own: Any,
            *args: Any,
            fused_lm_head: bool = False,
            labels: Tensor | None = None,
            num_items_in_batch: Tensor | int | None = None,
            **kwargs: Any,
        ) -> Any:
            if not fused_lm_head or labels is None:
                rest = kwargs if labels is None else kwargs | {"labels": labels}
                return fused(*args, **rest)
            packed = pack(kwargs["input_ids"], kwargs["attention_mask"], self._wanted(labels))
            shared = shared_prefix(packed)
            hidden = hidden_states(own, packed, shared)
            return self._score(hidden, own.get_output_embeddings().weight, packed, shared)

        # The signature of the original stays visible: generate() checks its arguments against it.
        forward.__wrapped__ = type(model).forward  # type: ignore[attr-defined]
        model.forward = types.MethodType(forward, model)

    def _wanted(self, labels: Tensor) -> Tensor:
        if self._scored is None:
            return labels
        wanted = torch.full_like(labels, IGNORED)
        count = self._scored.shape[1]
        wanted[:, -count:] = torch.where(self._scored.bool(), labels[:, -count:], IGNORED)
        return wanted

    def _score(self, hidden: Tensor, weight: Tensor, packed: "Packed", shared: int) -> FusedCausalLMOutput:
        """TRL's output, in the columns that the caller's batch had."""
        labels = packed.labels[:, shared + 1 :]
        scored = labels != IGNORED
        log_probs, entropy, top = scores(hidden[:, :-1][scored], weight, labels[scored], self._temperature)
        rows, columns = scored.nonzero(as_tuple=True)
        original = packed.columns[rows, columns + shared + 1] - 1

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(packed.rows, packed.width - 1).index_put((rows, original), values)

        spread_log_probs = spread(log_probs)
        if not len(rows):  # every worker must run its backward pass, one whose micro-batch is all masked, too
            spread_log_probs = spread_log_probs + 0.0 * hidden.float().sum()
        mask = spread(torch.ones_like(entropy)).bool()
        return FusedCausalLMOutput(
            loss=-spread_log_probs.sum() / mask.sum().clamp(min=1),
            log_probs=spread_log_probs,
            entropy=spread(entropy),
            is_top1=spread(top.float()).bool(),
            label_mask=mask,
        )


def is_plain(model: PreTrainedModel) -> bool:
    """Whether `model`'s logits are its hidden states times its head's weight and nothing more.

    Some architectures scale or cap them, or weigh experts; for those TRL's head, which knows them all, stays.
    """
    config: Any = model.config.get_text_config()
    special = any(getattr(config, name, None) for name in _SPECIAL_HEADS)
    return not special and getattr(model.get_output_embeddings(), "bias", None) is None


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch whose rows start with their first real token, whatever side it was padded on.

    `columns` (rows, length) says in which column of the original batch of `width` columns a token stood.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    columns: Tensor
    width: int

    @property
    def rows(self) -> int:
        return len(self.ids)


def pack(ids: Tensor, mask: Tensor, labels: Tensor) -> Packed:
    """The batch without padding before or between tokens, and as short as its longest row; all (rows, width)."""
    columns = (1 - mask.long()).argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
    return Packed(ids.gather(1, columns), mask.gather(1, columns), labels.gather(1, columns), columns, ids.shape[1])


def shared_prefix(packed: Packed) -> int:
    """How many tokens all rows start with, none of them nor the one after scored; 0 where sharing does not pay."""
    same = (packed.ids == packed.ids[:1]).all(0) & packed.mask.bool().all(0) & (packed.labels == IGNORED).all(0)
    count = int(same.long().cumprod(0).sum()) - 1
    return count if packed.rows > 1 and count >= _MIN_SHARED_TOKENS else 0


def hidden_states(model: PreTrainedModel, packed: Packed, shared: int) -> Float[Tensor, "rows length width"]:
    """The backbone's last hidden states from position `shared` on."""
    backbone: Any = model.base_model
    if not shared:
        whole = backbone(input_ids=packed.ids, attention_mask=packed.mask, use_cache=False)
        return cast(Tensor, whole.last_hidden_state)
    cache = DynamicCache(config=model.config)
    backbone(input_ids=packed.ids[:1, :shared], past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        layer.keys = layer.keys.expand(packed.rows, -1, -1, -1)
        layer.values = layer.values.expand(packed.rows, -1, -1, -1)
    positions = torch.arange(shared, packed.ids.shape[1], device=packed.ids.device)
    rest = backbone(
        input_ids=packed.ids[:, shared:],
        attention_mask=packed.mask,
        position_ids=positions[None].expand(packed.rows, -1),
        past_key_values=cache,
        use_cache=True,
    )
    return cast(Tensor, rest.last_hidden_state)


def scores(
    hidden: Float[Tensor, "positions width"],
    weight: Float[Tensor, "vocabulary width"],
    targets: Int[Tensor, "positions"],
    temperature: float,
) -> tuple[Float[Tensor, "positions"], Float[Tensor, "positions"], Tensor]:
    """Log-probability of each target, entropy in nats, and whether the target is the likeliest token.

    Equals ``log_softmax(hidden @ weight.T / temperature)`` taken at the targets, and that distribution's entropy, in
    float32 and in chunks of positions.
    """
    parts = [
        _chunk(hidden[start : start + _CHUNK_POSITIONS], weight, targets[start : start + _CHUNK_POSITIONS], temperature)
        for start in range(0, max(1, len(hidden)), _CHUNK_POSITIONS)
    ]
    log_probs, entropy, top = (torch.cat(column) for column in zip(*parts, strict=True))
    return log_probs, entropy, top


def _chunk(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    logits = (hidden.to(weight.dtype) @ weight.t()).float() / temperature
    spread = torch.log_softmax(logits, -1)
    entropy = -(spread.exp() * spread).sum(-1)
    return spread.gather(1, targets[:, None])[:, 0], entropy, logits.argmax(-1) == targets
