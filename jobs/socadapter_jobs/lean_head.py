"""The language-model head of a training step on a CPU, computed only where a token is scored.

TRL's fused head scores every position of a batch where it has no Triton, in float32: on a CPU that is more than half
of a training step, for tokens whose loss is then masked out. This head selects the scored positions first. On a GPU
TRL's own kernel stays. Called by the sft and grpo stages after their trainer is built.
"""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

_CHUNK_POSITIONS = 256
IGNORED = -100


class LeanHead:
    """Replaces the fused head of the model inside `policy`; a no-op unless that model is on a CPU."""

    def __init__(self, policy: PeftModel, temperature: float = 1.0) -> None:
        self._temperature = temperature
        self._scored: Tensor | None = None
        model = policy.get_base_model()
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"the policy's base is a {type(model).__name__}, not a transformers model")
        if next(model.parameters()).device.type == "cpu":
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
            kwargs["use_cache"] = False
            hidden = own.base_model(*args, **kwargs).last_hidden_state[:, :-1]
            return self._score(hidden, own.get_output_embeddings().weight, self._wanted(labels)[:, 1:])

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

    def _score(self, hidden: Tensor, weight: Tensor, labels: Tensor) -> FusedCausalLMOutput:
        mask = labels != IGNORED
        log_probs, entropy, top = scores(hidden[mask], weight, labels[mask], self._temperature)

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(mask.shape).masked_scatter(mask, values)

        spread_log_probs = spread(log_probs)
        # An all-masked micro-batch still takes part in the backward pass, which every worker must run.
        anchored = spread_log_probs + 0.0 * hidden[..., 0].float() if not bool(mask.any()) else spread_log_probs
        return FusedCausalLMOutput(
            loss=-anchored.sum() / mask.sum().clamp(min=1),
            log_probs=anchored,
            entropy=spread(entropy),
            is_top1=torch.zeros_like(mask).masked_scatter(mask, top),
            label_mask=mask,
        )


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
