"""The static checks against the library that writes and loads adapters: what PEFT makes of our settings passes."""

import os
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.errors import UnsafeFormat
from socadapter_store import layout
from socadapter_store.static_checks import check_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the libraries deprecate their own attributes
]

os.environ.setdefault("OMP_NUM_THREADS", "1")


def _tiny_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


def _save(folder: Path, **settings: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, **({"target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings))
    get_peft_model(_tiny_model(), config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="all linear modules"),
        pytest.param({"target_modules": ["q_proj", "v_proj"]}, id="named modules"),
        pytest.param({"target_modules": ["q_proj"], "layers_to_transform": [1]}, id="top layers"),
        pytest.param({"lora_dropout": 0.1}, id="dropout"),
    ],
)
def test_adapters_that_peft_writes_for_us_pass(settings: dict[str, Any], tmp_path: Path) -> None:
    """A plain LoRA of any of our shapes passes as PEFT saves it, and PEFT's count of parameters is ours."""
    from peft import PeftModel
    from safetensors.numpy import load_file

    folder = _save(tmp_path / "adapter", **settings)
    facts = check_folder(folder)
    assert facts.parameters == sum(tensor.size for tensor in load_file(folder / layout.WEIGHTS).values())
    assert (facts.rank, facts.alpha) == (4, 8)
    loaded = PeftModel.from_pretrained(_tiny_model(), str(folder))
    assert sum(weight.numel() for name, weight in loaded.named_parameters() if "lora_" in name) == facts.parameters


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"use_dora": True}, id="dora"),
        pytest.param({"modules_to_save": ["lm_head"]}, id="whole modules"),
        pytest.param({"bias": "all"}, id="biases"),
        pytest.param({"rank_pattern": {"q_proj": 2}}, id="ranks by module"),
        pytest.param({"task_type": None}, id="class to import"),
    ],
)
def test_adapters_that_peft_writes_for_others_do_not(settings: dict[str, Any], tmp_path: Path) -> None:
    """Kinds that an engine cannot mix in a batch, or that change the base, are refused as PEFT really saves them."""
    folder = _save(tmp_path / "adapter", **settings)
    with pytest.raises(UnsafeFormat):
        check_folder(folder)
