"""The lean head computes what a plain head computes, gradients included, only where it is asked to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from socadapter_agent.base_model import BaseModel
from socadapter_api.names import Digest
from socadapter_api.training import LoraSpec
from socadapter_jobs.lean_head import IGNORED, LeanHead, is_plain, scores
from socadapter_jobs.packing import attends_packed, pack
from socadapter_jobs.policy import load_policy

pytestmark = pytest.mark.slow

PROMPT, COMPLETION = 24, 40
VOCABULARY = 400
_GOES_ON_AS = {3: (1, 42), 4: (3, 60)}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_policy(folder: Path) -> Any:
    """A policy whose adapter does something: a fresh LoRA's B is zero."""
    policy = load_policy(BaseModel(str(folder), folder, Digest("")), LoraSpec(rank=4), dtype=torch.float32, seed=0)
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return policy


def make_batch(*, shared: int, rows: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Prompts padded on the left and completions on the right, as TRL lays them out; `shared` first tokens alike.

    A fourth row goes on as the second does, half through its completion, which is scored; a fifth as the fourth, nearly
    to its end.
    """
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, PROMPT + COMPLETION), generator=rng)
    mask = torch.ones_like(ids)
    beginning = ids[0, :shared].clone()
    for row in range(rows):
        left, right = (row * 2, row * 3) if row < 3 else (2, 0)
        mask[row, :left] = 0
        mask[row, PROMPT + COMPLETION - right :] = 0
        ids[row, left : left + shared] = beginning
        if row in _GOES_ON_AS:
            other, tokens = _GOES_ON_AS[row]
            ids[row, left : left + tokens] = ids[other, left : left + tokens]
    labels = torch.where(mask.bool(), ids, IGNORED)
    labels[:, :PROMPT] = IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plainly(policy: Any, batch: dict[str, Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies by the textbook, zero where nothing is scored."""
    logits = policy(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0),
    ).logits.float()
    spread = torch.log_softmax(logits[:, :-1] / temperature, -1)
    labels = batch["labels"][:, 1:]
    scored = labels != IGNORED
    log_probs = spread.gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
    return log_probs * scored, -(spread.exp() * spread).sum(-1) * scored


def gradients(policy: Any, value: Tensor) -> dict[str, Tensor]:
    policy.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packs", [pytest.param(True, id="packed"), pytest.param(False, id="padded")])
@pytest.mark.parametrize("temperature", [pytest.param(1.0, id="at one"), pytest.param(0.7, id="sharpened")])
@pytest.mark.parametrize(
    ("shared", "rows"),
    [
        pytest.param(0, 3, id="nothing shared"),
        pytest.param(20, 3, id="instructions shared"),
        pytest.param(20, 5, id="instructions and investigations shared"),
    ],
)
def test_it_equals_the_plain_computation(
    blank_base: Path, shared: int, rows: int, temperature: float, packs: bool
) -> None:
    """Log-probabilities, entropies, and the gradients of both, with and without what rows have in common; of a model
    that attends to all tokens before, and of one that says it might not."""
    policy = make_policy(blank_base)
    model = policy.get_base_model()
    model.config.sliding_window = None if packs else 4096
    assert attends_packed(model) is packs
    batch = make_batch(shared=shared, rows=rows)
    weights = torch.randn(batch["labels"][:, 1:].shape, generator=torch.Generator().manual_seed(2))
    log_probs, entropy = plainly(policy, batch, temperature)
    expected = gradients(policy, (log_probs * weights).sum() - 0.3 * (entropy * weights).sum())
    LeanHead(policy, temperature)
    packed, scored = pack(batch["input_ids"], batch["attention_mask"], share=packs), batch["labels"] != IGNORED
    assert max(len(span.path) for span in packed.spans) == (0 if not packs else {3: int(shared > 0), 5: 3}[rows])
    assert (len(set(packed.places[scored].tolist())) < int(scored.sum())) is (packs and rows == 5)
    found = policy(**batch, fused_lm_head=True)
    torch.testing.assert_close(found.log_probs, log_probs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.entropy, entropy, atol=1e-5, rtol=1e-4)
    assert torch.equal(batch["labels"][:, 1:] != IGNORED, found.label_mask)
    actual = gradients(policy, (found.log_probs * weights).sum() - 0.3 * (found.entropy * weights).sum())
    assert expected.keys() == actual.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], atol=1e-5, rtol=1e-3, msg=name)
    assert "sdpa" == model.config._attn_implementation


def test_only_what_is_scored_is_computed(blank_base: Path) -> None:
    """Positions that the mask leaves out come back as zero, the others unchanged."""
    policy = make_policy(blank_base)
    batch = make_batch(shared=20)
    whole, _ = plainly(policy, batch, 1.0)
    head = LeanHead(policy)
    scored = torch.zeros(3, COMPLETION)
    scored[:, 2:5] = 1
    scored[2] = 0
    with head.only(scored):
        found = policy(**batch, fused_lm_head=True).log_probs[:, -COMPLETION:]
    torch.testing.assert_close(found, whole[:, -COMPLETION:] * scored, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(policy(**batch, fused_lm_head=True).log_probs, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("blank", [0, 1, 2])
def test_a_row_without_a_token_leaves_the_others_as_they_are(blank_base: Path, blank: int) -> None:
    """Blank rows come from the sampler, where a worker had nothing to fill its share."""
    policy = make_policy(blank_base)
    batch = make_batch(shared=20)
    filled = [row for row in range(3) if row != blank]
    alone, _ = plainly(policy, {name: value[filled] for name, value in batch.items()}, 1.0)
    batch["attention_mask"][blank] = 0
    batch["labels"][blank] = IGNORED
    LeanHead(policy)
    found = policy(**batch, fused_lm_head=True).log_probs
    torch.testing.assert_close(found[filled], alone, atol=1e-5, rtol=1e-4)
    assert not found[blank].any()


def test_a_batch_without_a_scored_token_still_runs_backwards(blank_base: Path) -> None:
    """Every worker must take part in a backward pass, or the others wait for ever; its gradients are zero."""
    policy = make_policy(blank_base)
    head = LeanHead(policy)
    with head.only(torch.zeros(3, COMPLETION)):
        found = policy(**make_batch(shared=20), fused_lm_head=True)
    grads = gradients(policy, found.loss + found.entropy.sum())
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == set(grads)
    assert 0.0 == max(float(grad.abs().max()) for grad in grads.values())


def test_entropy_can_be_left_out(blank_base: Path) -> None:
    """SFT has no use for it: zero then, and the log-probabilities as before."""
    policy = make_policy(blank_base)
    batch = make_batch(shared=20)
    expected, _ = plainly(policy, batch, 1.0)
    LeanHead(policy, entropy=False)
    found = policy(**batch, fused_lm_head=True)
    torch.testing.assert_close(found.log_probs, expected, atol=1e-5, rtol=1e-4)
    assert not found.entropy.any()


def test_chunks_change_nothing() -> None:
    """More positions than one chunk holds score as they would alone."""
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 8, generator=rng)
    weight = torch.randn(50, 8, generator=rng)
    targets = torch.randint(0, 50, (700,), generator=rng)
    log_probs, entropy, top = scores(hidden, weight, targets, 1.0)
    spread = torch.log_softmax(hidden @ weight.t(), -1)
    torch.testing.assert_close(log_probs, spread.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(entropy, -(spread.exp() * spread).sum(-1))
    assert torch.equal(top, spread.argmax(-1) == targets)


def test_it_packs_only_what_attends_to_all_before(blank_base: Path) -> None:
    """Windows, other kinds of layers and attention that cannot be exchanged keep their padding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(blank_base)
    assert attends_packed(model)
    model.config.layer_types = ["full_attention", "linear_attention"]
    assert not attends_packed(model)
    model.config.layer_types = None
    model._supports_attention_backend = False
    assert not attends_packed(model)


def test_it_keeps_away_from_heads_that_do_more(blank_base: Path) -> None:
    """A base that scales its logits, or whose head has a bias, keeps TRL's head."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(blank_base)
    assert is_plain(model)
    model.config.logits_scaling = 8.0
    assert not is_plain(model)
    model.config.logits_scaling = None
    model.lm_head = torch.nn.Linear(48, 480, bias=True)
    assert not is_plain(model)
