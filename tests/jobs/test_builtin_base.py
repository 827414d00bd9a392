"""The built-in base itself, small: served beside what it learned and compared with PEFT, and through all stages."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from socadapter_agent import protocol
from socadapter_agent.base_model import BUILTIN, BaseModel, resolve_base
from socadapter_agent.chat_format import chat_format
from socadapter_agent.engine import TokenRecord
from socadapter_agent.investigation import Budgets, Investigation, investigate
from socadapter_agent.replay import ReplayToolbox, specs_of_cases
from socadapter_agent.slot_model import Reading
from socadapter_agent.tools import GuardedToolbox
from socadapter_agent.transformers_engine import TransformersEngine
from socadapter_agent.transformers_session import BASE
from socadapter_api.manifest import Outcome, RunResult
from socadapter_api.training import BaseModelRef, LoraSpec, ReplayMiss, RunSpec, SftSpec
from socadapter_jobs.examples import encode_all
from socadapter_jobs.policy import adapter_state, load_policy, load_tokenizer, save_adapter, state_digest
from socadapter_jobs.sft import train_sft
from socadapter_jobs.workspace import Workspace
from socadapter_store.verify import verify_version

pytestmark = pytest.mark.slow

VERSION = "cloud-v1"
BUDGETS = Budgets(max_turns=2, max_calls=1, max_turn_tokens=10, max_context_tokens=512)


@pytest.fixture(scope="module")
def builtin() -> BaseModel:
    """Unpacked once for every process of this machine."""
    return resolve_base(BaseModelRef(uri=BUILTIN))


@pytest.fixture(autouse=True)
def _both_cores() -> Iterator[None]:
    """Half a gigabyte of weights is not for one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def sampled(record: TokenRecord) -> list[int]:
    """Places, in the whole conversation, of the tokens that the model said."""
    return [len(record.prompt_ids) + place for place, said in enumerate(record.mask) if said]


def recomputed(model: Any, record: TokenRecord) -> torch.Tensor:
    """Log-probabilities of what followed each place that a sampled token follows, (sampled tokens, vocabulary)."""
    with torch.no_grad():
        logits = model(torch.tensor([[*record.prompt_ids, *record.ids]])).logits[0].float()
    return torch.log_softmax(logits[[place - 1 for place in sampled(record)]], -1)


async def test_the_builtin_base_learns_and_is_served_with_what_it_learned(
    builtin: BaseModel, making: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base and new adapter investigate in one batch; each says what PEFT says of the very tokens that it read."""
    cases = making.cases(4)
    specs, tokenizer = specs_of_cases(cases), load_tokenizer(builtin)
    examples = encode_all([making.expert(case) for case in cases], chat_format(tokenizer), specs, 1024)
    policy = load_policy(builtin, LoraSpec(rank=4, alpha=8, top_layers=6), dtype=torch.float32, seed=0)
    before = state_digest(adapter_state(policy))
    spec = SftSpec(epochs=1.0, batch_size=2, learning_rate=1e-3)
    outcome = train_sft(
        policy, tokenizer, examples, spec, folder=tmp_path / "sft", dtype=torch.float32, seed=0, save_steps=100
    )
    assert 2 == outcome.steps
    assert before != save_adapter(policy, tmp_path / "adapter")
    del policy

    engine = TransformersEngine(builtin.path, base_digest=builtin.digest, max_batch=4, threads=2)
    batches: list[frozenset[str]] = []
    read = engine._passes.read

    def noting(readings: Sequence[Reading]) -> torch.Tensor:
        batches.append(frozenset(reading.adapter for reading in readings))
        return read(readings)

    monkeypatch.setattr(engine._passes, "read", noting)
    await engine.start()
    await engine.load_adapter(VERSION, tmp_path / "adapter")

    async def investigated(number: int, adapter: str | None) -> Investigation:
        tools = GuardedToolbox(ReplayToolbox(cases[number].evidence, specs, ReplayMiss.NO_DATA))
        return await investigate(cases[number].visible(), tools, engine, adapter=adapter, budgets=BUDGETS)

    asked = [(number, adapter) for number in (0, 1) for adapter in (None, VERSION)]
    found = await asyncio.gather(*(investigated(*who) for who in asked))
    await engine.stop()
    assert frozenset({BASE, VERSION}) in batches

    plain = AutoModelForCausalLM.from_pretrained(builtin.path, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    for (number, adapter), investigation in zip(asked, found, strict=True):
        record = investigation.tokens
        assert record is not None
        user = protocol.render_alert(cases[number].visible())
        assert engine.format.prompt_ids(protocol.system_prompt(specs), user) == list(record.prompt_ids)
        most = BUDGETS.max_turns * BUDGETS.max_turn_tokens
        assert 0 < investigation.trajectory.tokens_generated == sum(record.mask) <= most
        with contextlib.nullcontext() if adapter else model.disable_adapter():
            expected = recomputed(model, record)
        told = torch.tensor([record.ids[place - len(record.prompt_ids)] for place in sampled(record)])
        own = torch.tensor([value for value, said in zip(record.logprobs, record.mask, strict=True) if said])
        assert torch.allclose(expected.gather(1, told[:, None])[:, 0], own, atol=1e-3)
        assert torch.allclose(expected.max(-1).values, own, atol=1e-3)
        if (number, adapter) == (0, VERSION):
            with model.disable_adapter():
                assert not torch.allclose(recomputed(model, record), expected, atol=1e-3)


def test_the_builtin_base_goes_through_all_stages(
    builtin: BaseModel, make_spec: Callable[..., RunSpec], run_here: Callable[[RunSpec], RunResult], key: Any
) -> None:
    """Prepared, taught, rewarded, judged and published in one short run; what comes out verifies for this base."""
    small = make_spec(
        builtin.path,
        data={"max_holdout": 10},
        sft={"epochs": 4, "batch_size": 2},
        grpo={"steps": 1, "max_turns": 2, "max_calls": 1, "max_turn_tokens": 16, "eval_every": 1},
        evaluation={"max_development": 8, "summaries": 0},
    )
    spec = small.model_copy(update={"base": BaseModelRef(uri=BUILTIN)})
    result = run_here(spec)
    assert Outcome.PUBLISHED is result.outcome, result
    assert result.grpo is not None
    assert 1 == result.grpo.steps, result.grpo
    manifest = verify_version(Path(Workspace.of(spec).store.uri), result.digest, [key.public_pem()])
    assert (BUILTIN, builtin.digest) == (manifest.base_uri, manifest.base_digest)
