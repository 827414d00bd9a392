"""Adapters in the in-process engine: each says what it says alone, whatever shares its batch, comes or goes."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.agent.talking import ALERTS, SHORT, SYSTEM, greedy, say, until
from transformers import LlamaForCausalLM

from socadapter_agent.engine import Sampling
from socadapter_api.errors import ArtifactError, BaseMismatch, EngineUnavailable, SocAdapterError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
]


def adapted(base_dir: Path, folder: Path) -> Any:
    return PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base_dir), folder).eval()


async def test_adapters_mixed_in_one_batch_equal_each_alone(
    make_engine: Any, adapters: dict[str, Path], base_dir: Path
) -> None:
    """Rows of several adapters and of the base share a batch, and each says what its own merged-free model says."""
    names = [None, *adapters]
    async with make_engine(max_batch=8) as engine:
        for name, folder in adapters.items():
            await engine.load_adapter(name, folder)
        pairs = [(name, alert) for alert in ALERTS[:3] for name in names]
        turns = await asyncio.gather(*(say(engine, alert, name) for name, alert in pairs))
        mixed = {pair: list(turn.token_ids) for pair, turn in zip(pairs, turns, strict=True)}
        prompts = {alert: engine.format.prompt_ids(SYSTEM, alert) for alert in ALERTS[:3]}
        end = engine.format.end_of_turn
    plain = LlamaForCausalLM.from_pretrained(base_dir).eval()
    models = {None: plain} | {name: adapted(base_dir, folder) for name, folder in adapters.items()}
    assert {(name, alert): greedy(models[name], prompts[alert], 12, end) for name, alert in pairs} == mixed
    assert len({tuple(mixed[name, ALERTS[0]]) for name in names}) == len(names)


async def test_adapters_in_turn_equal_each_alone(make_engine: Any, adapters: dict[str, Path], base_dir: Path) -> None:
    """A batch of one adapter's own makes it the active one; the next is another's, or the base's, all the same."""
    turns = [*adapters, None, *reversed(adapters)]
    async with make_engine(max_batch=8) as engine:
        for name, folder in adapters.items():
            await engine.load_adapter(name, folder)
        found = [[list((await say(engine, alert, name)).token_ids) for alert in ALERTS[:2]] for name in turns]
        prompts = [engine.format.prompt_ids(SYSTEM, alert) for alert in ALERTS[:2]]
        end = engine.format.end_of_turn
    plain = LlamaForCausalLM.from_pretrained(base_dir).eval()
    models = {None: plain} | {name: adapted(base_dir, folder) for name, folder in adapters.items()}
    assert [[greedy(models[name], prompt, 12, end) for prompt in prompts] for name in turns] == found


async def test_the_last_adapter_leaves_the_base_as_it_was(
    make_engine: Any, adapters: dict[str, Path], model: Any
) -> None:
    """Loading and unloading adapters, to the last, leaves the base's answers and weights alone; names come back."""
    first, second, _ = adapters
    async with make_engine() as engine:
        before = [(await say(engine, alert)).token_ids for alert in ALERTS]
        for name in (first, second):
            await engine.load_adapter(name, adapters[name])
        assert engine.adapters == {first, second}
        told = (await say(engine, ALERTS[0], first)).token_ids
        assert [(await say(engine, alert)).token_ids for alert in ALERTS] == before
        for name in (first, second, "never loaded"):
            await engine.unload_adapter(name)
        assert engine.adapters == frozenset()
        assert [(await say(engine, alert)).token_ids for alert in ALERTS] == before
        weights = engine.model.state_dict()
        assert weights.keys() == model.state_dict().keys()
        assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
        await engine.load_adapter(first, adapters[first])
        assert (await say(engine, ALERTS[0], first)).token_ids == told


async def test_places_for_adapters_are_limited(make_engine: Any, adapters: dict[str, Path]) -> None:
    """No more than so many are held, however many ask at once; a name that is held is not read again."""
    async with make_engine(max_adapters=2) as engine:
        loads = (engine.load_adapter(name, folder) for name, folder in adapters.items())
        found = await asyncio.gather(*loads, return_exceptions=True)
        (refused,) = (error for error in found if error is not None)
        assert isinstance(refused, EngineUnavailable)
        assert "maxLoras" in str(refused)
        held = sorted(engine.adapters)
        assert len(held) == 2
        await engine.load_adapter(held[0], Path("nowhere"))


def _broken(folder: Path, source: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    shutil.copytree(source, folder)
    save_file(change(load_file(source / "adapter_model.safetensors")), folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("others", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        pytest.param(
            lambda held: {key: value[:, :1].clone() for key, value in held.items()}, BaseMismatch, id="other shapes"
        ),
        pytest.param(lambda held: dict(list(held.items())[:-2]), ArtifactError, id="weights missing"),
        pytest.param(
            lambda held: held | {"base_model.model.x.lora_A.weight": torch.zeros(1)},
            ArtifactError,
            id="weights too many",
        ),
        pytest.param(None, ArtifactError, id="no folder"),
    ],
)
async def test_an_adapter_that_does_not_load_leaves_nothing(
    make_engine: Any, adapters: dict[str, Path], tmp_path: Path, change: Any, kind: type[SocAdapterError], others: int
) -> None:
    """A load that fails half-way is not held, changes no answer, and a good one takes its name."""
    good, other, _ = adapters
    broken = _broken(tmp_path / "broken", adapters[good], change) if change else tmp_path / "nowhere"
    async with make_engine() as engine:
        for name in [other][:others]:
            await engine.load_adapter(name, adapters[name])
        held, before = engine.adapters, (await say(engine, ALERTS[0])).token_ids
        with pytest.raises(kind, match=str(broken)):
            await engine.load_adapter(good, broken)
        assert engine.adapters == held
        assert (await say(engine, ALERTS[0])).token_ids == before
        await engine.load_adapter(good, adapters[good])
        assert (await say(engine, ALERTS[0], good)).token_ids != before
        assert (await say(engine, ALERTS[0])).token_ids == before


async def test_an_adapter_of_another_base_names_both(
    make_engine: Any, adapters: dict[str, Path], base_dir: Path, tmp_path: Path
) -> None:
    """Modules that the base has not are told with the folder and the base, and the engine goes on."""
    good = next(iter(adapters))
    config = shutil.copytree(adapters[good], tmp_path / "of-another-base") / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": ["query_key_value"]}))
    async with make_engine() as engine:
        before = (await say(engine, ALERTS[0])).token_ids
        with pytest.raises(BaseMismatch, match=rf"of-another-base does not fit base '{base_dir}': .*query_key_value"):
            await engine.load_adapter(good, config.parent)
        assert (await say(engine, ALERTS[0])).token_ids == before


async def test_unloading_ends_that_adapters_turns_only(make_engine: Any, adapters: dict[str, Path]) -> None:
    """A turn under way on an adapter that leaves is told so; the base's turns in the same batch go on."""
    async with make_engine(max_batch=4) as engine:
        expected = (await say(engine, ALERTS[1], sampling=Sampling(max_turn_tokens=60))).token_ids
        await engine.load_adapter("cloud-v1", adapters["cloud-v1"])
        session = engine.open(SYSTEM, ALERTS[0], "cloud-v1")
        leaving = asyncio.create_task(session.turn(Sampling(max_turn_tokens=900, temperature=1.0, seed=1)))
        staying = asyncio.create_task(say(engine, ALERTS[1], sampling=Sampling(max_turn_tokens=60)))
        await until(lambda: len(engine._decoding) == 2)
        await engine.unload_adapter("cloud-v1")
        with pytest.raises(EngineUnavailable, match="'cloud-v1' was unloaded"):
            await leaving
        with pytest.raises(EngineUnavailable, match="not loaded"):
            await session.turn(SHORT)
        session.close()
        assert (await staying).token_ids == expected
