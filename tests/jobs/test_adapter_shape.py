"""A run that continues from a version trains that version's shape, or is refused before it trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from socadapter_agent.base_model import BaseModel
from socadapter_api.adapter import SocAdapter
from socadapter_api.errors import SpecError
from socadapter_api.names import Digest
from socadapter_api.training import LoraSpec
from socadapter_cli import demo_world
from socadapter_jobs.adapter_shape import require_shape
from socadapter_jobs.policy import load_policy, parameter_counts, policy_shape, save_adapter

pytestmark = pytest.mark.slow

SHAPES: dict[str, dict[str, Any]] = {
    "all linear": {},
    "one layer": {"top_layers": 1},
    "by name": {"target_modules": ["q_proj", "v_proj"]},
    "by name, one layer": {"target_modules": ["q_proj", "v_proj"], "top_layers": 1},
}


def lora(**changes: Any) -> LoraSpec:
    return LoraSpec.model_validate({"rank": 4, "alpha": 8, **changes})


@pytest.fixture(scope="module")
def bare(blank_base: Path) -> BaseModel:
    return BaseModel(str(blank_base), blank_base, Digest(""))


@pytest.fixture(scope="module")
def parents(bare: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter folder of each shape."""
    folders = {}
    for name, changes in SHAPES.items():
        folders[name] = tmp_path_factory.mktemp("parent")
        save_adapter(load_policy(bare, lora(**changes), dtype=torch.float32, seed=0), folders[name])
    return folders


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_shape_goes_on(bare: BaseModel, parents: dict[str, Path], shape: str) -> None:
    """However its modules were named."""
    require_shape("cloud-v1", parents[shape], bare, lora(**SHAPES[shape]))
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    require_shape("cloud-v1", parents["all linear"], bare, lora(target_modules=every))


@pytest.mark.parametrize(
    ("shape", "changes", "told"),
    [
        pytest.param("all linear", {"rank": 8}, "lora.rank: 4 in cloud-v1, 8 in the spec", id="rank"),
        pytest.param("all linear", {"alpha": 16}, "lora.alpha: 8 in cloud-v1, 16 in the spec", id="alpha"),
        pytest.param(
            "all linear", {"top_layers": 1}, "in layers 0 to 1 in cloud-v1, 7 (.*) in layers 1 to 1, by", id="layers"
        ),
        pytest.param(
            "by name",
            {},
            r"4 \(q_proj, v_proj\) in layers 0 to 1 in cloud-v1, 14 .* by lora.targetModules 'all-linear' in the spec",
            id="modules",
        ),
    ],
)
def test_another_shape_is_refused(
    bare: BaseModel, parents: dict[str, Path], shape: str, changes: dict[str, Any], told: str
) -> None:
    """Both values, and what to do."""
    with pytest.raises(SpecError, match=told) as refused:
        require_shape("cloud-v1", parents[shape], bare, lora(**changes))
    assert "continueFrom to Base" in str(refused.value)


SMOLLM2_135M = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1_536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize("sample", demo_world.CONTEXTS)
def test_a_samples_adapter_is_less_than_a_hundredth_of_its_base(sample: str, tmp_path: Path) -> None:
    """Counted on the built-in base's real shape, with the rank and the modules that the sample names."""
    SMOLLM2_135M.save_pretrained(tmp_path)
    spec = SocAdapter.model_validate(demo_world.sample(sample)).spec
    counts = parameter_counts(policy_shape(BaseModel("smollm2", tmp_path, Digest("")), spec.lora))
    assert 134_515_008 == counts["base"]
    assert 0 < counts["adapter"] < 0.01 * counts["base"]
