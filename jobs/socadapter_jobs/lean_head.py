"""A training step on a CPU that computes only what the loss needs.

TRL's fused head scores every position of a batch where it has no Triton, in float32: on a CPU that is more than half
of a training step, for tokens whose loss is then masked out. Here the scored positions are selected first, and the
rows go through the model as one sequence without padding, in which the instructions that all of them start with stand
once instead of once a row; each row attends to these and to itself. Log-probabilities, entropies and gradients equal
the plain computation. On a GPU TRL's own kernel stays. Called by the sft and grpo stages after their trainer is built.
"""

import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from socadapter_agent import own_attention

_CHUNK_POSITIONS = 256
_MIN_SHARED_TOKENS = 16
_PACKED = "socadapter_packed"
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
            ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
            packed = pack(ids, mask, self._wanted(labels), share=packs)
            hidden = hidden_states(own, packed) if packs else padded_hidden_states(own, kwargs)
            return self._score(hidden, own.get_output_embeddings().weight, packed)

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

    def _score(self, hidden: Tensor, weight: Tensor, packed: "Packed") -> FusedCausalLMOutput:
        """TRL's output, in the columns that the caller's batch had."""
        scored = ((packed.labels != IGNORED) & (packed.positions > 0)).nonzero()[:, 0]
        log_probs, entropy, top = scores(
            hidden[scored - 1], weight, packed.labels[scored], self._temperature, with_entropy=self._entropy
        )
        rows, columns = packed.rows[scored], packed.columns[scored] - 1

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(packed.shape[0], packed.shape[1] - 1).index_put((rows, columns), values)

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
    """A batch's real tokens in one sequence: row after row, what all rows start with only once.

    Every tensor is of shape (tokens,): the token, its label, its position in its row, its row, and the column of the
    original batch in which it stood. The first `shared` tokens belong to every row; `spans` are the rows' own tokens,
    those of the first that has any with the shared ones. `shape` (rows, columns) is the original batch's.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    rows: Tensor
    columns: Tensor
    shape: tuple[int, int]
    shared: int
    spans: tuple[tuple[int, int], ...]


def pack(ids: Tensor, mask: Tensor, labels: Tensor, *, share: bool = True) -> Packed:
    """The batch, all of it (rows, columns) and padded on either side, as one sequence; shared as far as `share`."""
    real = mask.bool()
    shared = _shared_prefix(ids, real, labels) if share else 0
    positions = real.long().cumsum(1) - 1
    first = real.any(1).long().argmax()
    kept = real & (positions >= shared)
    kept[first] = real[first]
    rows, columns = kept.nonzero(as_tuple=True)
    ends = kept.sum(1).cumsum(0).tolist()
    return Packed(
        ids[rows, columns],
        labels[rows, columns],
        positions[rows, columns],
        rows,
        columns,
        (ids.shape[0], ids.shape[1]),
        shared,
        tuple(zip([0, *ends], ends, strict=False)),
    )


def _shared_prefix(ids: Tensor, real: Tensor, labels: Tensor) -> int:
    """How many tokens all rows that have any start with, none of them nor the one after scored; 0 where it does not
    pay."""
    filled = real.any(1)
    if filled.sum() < 2:
        return 0
    ids, real, labels = ids[filled], real[filled], labels[filled]
    order = (~real).long().argsort(dim=1, stable=True)[:, : int(real.sum(1).min())]
    ids, labels = ids.gather(1, order), labels.gather(1, order)
    same = (ids == ids[:1]).all(0) & (labels == IGNORED).all(0)
    count = int(same.long().cumprod(0).sum()) - 1
    return count if count >= _MIN_SHARED_TOKENS else 0


def attends_packed(model: PreTrainedModel) -> bool:
    """Whether every layer of `model` attends to all tokens before, by a function that can be exchanged."""
    config: Any = model.config.get_text_config()
    windowed = getattr(config, "sliding_window", None) is not None
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return own_attention.can_exchange(model) and not windowed and layers == {"full_attention"}


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
    """Causal attention of each row to itself and to what all rows share. An attention function of transformers.

    `attention_mask` is `own_mask`'s: that of a row is a corner of it.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (kv.repeat_interleave(repeats, 1) if repeats > 1 else kv for kv in (key, value))
    shared_key, shared_value = key[:, :, : packed.shared], value[:, :, : packed.shared]
    parts = []
    for start, end in packed.spans:
        if start == end:
            continue
        own_key, own_value, mask = key[:, :, start:end], value[:, :, start:end], None
        if start and packed.shared:
            own_key, own_value = torch.cat([shared_key, own_key], 2), torch.cat([shared_value, own_value], 2)
            mask = cast(Tensor, attention_mask)[0, 0, : end - start, : packed.shared + end - start].to(query.dtype)
        part = functional.scaled_dot_product_attention(
            query[:, :, start:end], own_key, own_value, mask, dropout, is_causal=mask is None, scale=scaling
        )
        parts.append(part)
    return torch.cat(parts, 2).transpose(1, 2), None


AttentionInterface.register(_PACKED, packed_attention)


def own_mask(packed: Packed, dtype: torch.dtype) -> Float[Tensor, "1 1 length length_and_shared"] | None:
    """What the longest row after the first may attend to, for all layers; None where each row starts by itself."""
    longest = max((end - start for start, end in packed.spans if start), default=0)
    if not packed.shared:
        return None
    mask = torch.full((longest, packed.shared + longest), float("-inf"), dtype=dtype, device=packed.ids.device)
    return mask.triu(packed.shared + 1)[None, None]


def hidden_states(model: PreTrainedModel, packed: Packed) -> Float[Tensor, "tokens width"]:
    """The backbone's last hidden states of the packed tokens."""
    backbone: Any = model.base_model
    with own_attention.attending(backbone.config, _PACKED):
        out = backbone(
            input_ids=packed.ids[None],
            attention_mask=own_mask(packed, model.dtype),
            position_ids=packed.positions[None],
            use_cache=False,
            packed=packed,
        )
    return cast(Tensor, out.last_hidden_state)[0]


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
