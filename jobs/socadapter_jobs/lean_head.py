"""A training step on a CPU that computes only what the loss needs.

TRL's fused head scores every position of a batch where it has no Triton, in float32: on a CPU that is more than half
of a training step, for tokens whose loss is then masked out. Here the scored positions are selected first, and the
rows go through the model as `packing` lays them out: without padding, and what they have in common once. Log-
probabilities, entropies and gradients equal the plain computation. On a GPU TRL's own kernel stays. Called by the sft
and grpo stages after their trainer is built.
"""

import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from socadapter_jobs.packing import Packed, attends_packed, hidden_states, pack

_CHUNK_POSITIONS = 256
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
    """Replaces the fused head of the model inside `policy`; a no-op unless that is a plain head on a CPU.

    Without `entropy` the entropies that it gives are zero, which saves a pass over the vocabulary.
    """

    def __init__(self, policy: PeftModel, temperature: float = 1.0, *, entropy: bool = True) -> None:
        self._temperature, self._entropy = temperature, entropy
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
        packs = attends_packed(model)

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
            packed = pack(kwargs["input_ids"], kwargs["attention_mask"], share=packs)
            hidden = hidden_states(own, packed) if packs else padded_hidden_states(own, kwargs)
            return self._score(hidden, own.get_output_embeddings().weight, packed, self._wanted(labels))

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

    def _score(self, hidden: Tensor, weight: Tensor, packed: Packed, labels: Tensor) -> FusedCausalLMOutput:
        """TRL's output, in the columns that the caller's batch had. A label is the batch's token, or ignored."""
        known = packed.places.clamp(min=0)
        wanted = (labels != IGNORED) & (packed.places >= 0) & (packed.positions[known] > 0)
        rows, columns = wanted.nonzero(as_tuple=True)
        scored, which = torch.unique(packed.places[rows, columns], return_inverse=True)
        targets = torch.empty_like(scored).index_put((which,), labels[rows, columns])
        log_probs, entropy, top = scores(
            hidden[packed.before[scored]], weight, targets, self._temperature, with_entropy=self._entropy
        )

        def spread(values: Tensor) -> Tensor:
            blank = values.new_zeros(labels.shape[0], labels.shape[1] - 1)
            return blank.index_put((rows, columns - 1), values[which])

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


def padded_hidden_states(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Float[Tensor, "tokens width"]:
    """The same, row after row, of a model that cannot attend to packed tokens; `batch` is padded and nothing shared."""
    backbone: Any = model.base_model
    mask = batch["attention_mask"]
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    out = backbone(input_ids=batch["input_ids"], attention_mask=mask, position_ids=positions, use_cache=False)
    return cast(Tensor, out.last_hidden_state)[mask.bool()]


def scores(
    hidden: Float[Tensor, "positions width"],
    weight: Float[Tensor, "vocabulary width"],
    targets: Int[Tensor, "positions"],
    temperature: float,
    *,
    with_entropy: bool = True,
) -> tuple[Float[Tensor, "positions"], Float[Tensor, "positions"], Tensor]:
    """Log-probability of each target, entropy in nats, and whether the target is the likeliest token.

    Equals ``log_softmax(hidden @ weight.T / temperature)`` taken at the targets, and that distribution's entropy (zero
    without `with_entropy`), in float32 and in chunks of positions.
    """
    parts = []
    for start in range(0, max(1, len(hidden)), _CHUNK_POSITIONS):
        chunk = slice(start, start + _CHUNK_POSITIONS)
        logits = (hidden[chunk].to(weight.dtype) @ weight.t()).float() / temperature
        spread = torch.log_softmax(logits, -1)
        entropy = -(spread.exp() * spread).sum(-1) if with_entropy else torch.zeros_like(spread[:, 0])
        log_probs = spread.gather(1, targets[chunk, None])[:, 0]
        parts.append((log_probs, entropy, logits.argmax(-1) == targets[chunk]))
    log_probs, entropy, top = (torch.cat(column) for column in zip(*parts, strict=True))
    return log_probs, entropy, top
