"""The fused product is PEFT's, gradients included, and stands only where nothing but the product is meant."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from socadapter_agent import lean_lora

pytestmark = pytest.mark.slow

WIDTH, OUT = 24, 40


def adapted(*, bias: bool = False, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """Two linear modules with adapters that do something."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, OUT, bias=bias), nn.SiLU(), nn.Linear(OUT, WIDTH, bias=bias)).to(dtype)
    fields = {"r": 3, "lora_alpha": 12, "target_modules": ["0", "2"]} | config
    policy = get_peft_model(model, LoraConfig(**fields))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return policy


def passed(policy: Any, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The output, and the gradients of a sum of its squares: of the input and of the adapter."""
    policy.zero_grad()
    given = x.clone().requires_grad_()
    out = policy(given)
    out.square().sum().backward()
    assert given.grad is not None
    return out.detach(), given.grad, {name: p.grad.clone() for name, p in policy.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("shape", [pytest.param((7, WIDTH), id="rows"), pytest.param((2, 5, WIDTH), id="a batch")])
@pytest.mark.parametrize("bias", [pytest.param(False, id="no bias"), pytest.param(True, id="bias")])
def test_it_equals_peft(bias: bool, shape: tuple[int, ...]) -> None:
    """Outputs and gradients, in whatever shape the input comes; nothing of the base gets a gradient."""
    policy = adapted(bias=bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = passed(policy, x)
    assert 2 == lean_lora.fuse(policy)
    found = passed(policy, x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert all("lora" in name for name in found[2])


def test_modules_that_the_active_adapter_does_not_adapt_give_the_base() -> None:
    """Two adapters of different modules lie beside each other, and each answers as PEFT would have it."""
    policy = adapted()
    policy.add_adapter("other", LoraConfig(r=3, target_modules=["2"], init_lora_weights=False))
    x = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(1))
    policy.set_adapter("other")
    expected = policy(x)
    assert 2 == lean_lora.fuse(policy)
    torch.testing.assert_close(policy(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"lora_dropout": 0.5}, id="dropout"),
        pytest.param({"use_dora": True}, id="DoRA"),
        pytest.param({"lora_bias": True}, id="a bias of the adapter's own"),
        pytest.param({"dtype": torch.bfloat16}, id="another number format"),
    ],
)
def test_what_is_more_than_the_product_stays_with_peft(config: dict[str, Any]) -> None:
    """No module is taken."""
    assert 0 == lean_lora.fuse(adapted(bias="lora_bias" in config, **config))


def test_an_adapter_that_is_more_gives_its_modules_back() -> None:
    """Fused for the first, left to PEFT when another with dropout came."""
    policy = adapted()
    usual = copy.deepcopy(policy)
    assert 2 == lean_lora.fuse(policy) == lean_lora.fuse(policy)
    policy.add_adapter("other", LoraConfig(r=3, target_modules=["0", "2"], lora_dropout=0.5))
    assert 0 == lean_lora.fuse(policy)
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(policy(x), usual(x), atol=0, rtol=0)


def test_a_call_that_means_something_else_goes_to_peft() -> None:
    """The base alone, another adapter for each row, autocast: as before."""
    policy = adapted()
    policy.add_adapter("other", copy.deepcopy(policy.peft_config["default"]))
    usual = copy.deepcopy(policy)
    assert 2 == lean_lora.fuse(policy)
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    for name in ("default", "other"):
        policy.set_adapter(name)
        usual.set_adapter(name)
        torch.testing.assert_close(policy(x), usual(x))
    with policy.disable_adapter(), usual.disable_adapter():
        torch.testing.assert_close(policy(x), usual(x), atol=0, rtol=0)
    layers = (policy.base_model.model[0], usual.base_model.model[0])
    names = ["default", "other", "__base__", "default"]
    mixed, expected = (layer(x, adapter_names=names) for layer in layers)
    torch.testing.assert_close(mixed, expected, atol=0, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, expected = (layer(x) for layer in layers)
    assert torch.bfloat16 is cast.dtype
    torch.testing.assert_close(cast, expected, atol=0, rtol=0)
