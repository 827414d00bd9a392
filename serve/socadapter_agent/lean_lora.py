"""Low-rank products on a CPU without the passes over memory that they need not make.

PEFT computes base, two small products, a scaling and a sum, and autograd as many again backwards, most of them over
whole activations; and a product of a tall matrix with one of four columns runs at a fraction of a processor's speed
unless the small one lies row by row. Here scaling and sum are part of the product that precedes them, forwards and
backwards, and the small matrices lie as they should. Outputs and gradients equal PEFT's. In float32 only: where
autocast decides formats, PEFT's own computation stays, as it does on a GPU. Called by the sft and grpo stages, and by
the engine for what it loads.
"""

import types
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _Product(torch.autograd.Function):
    """``x @ weight.T + bias + scaling * (x @ a.T) @ b.T``, with gradients for x, a and b; weight and bias are frozen.

    x (..., in), weight (out, in), bias (out) or None, a (rank, in), b (out, rank).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.t()
        out = functional.linear(flat, weight, bias).addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(flat, weight, a, b, low)
        ctx.scaling = scaling
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        flat, weight, a, b, low = ctx.saved_tensors
        given = grad.reshape(-1, grad.shape[-1])
        back = given @ b.t().contiguous().t()
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (given @ weight).addmm_(back, a, alpha=ctx.scaling).view(*grad.shape[:-1], -1)
        grad_a = (back.t() @ flat).mul_(ctx.scaling)
        grad_b = (low.t() @ given).mul_(ctx.scaling).t()
        return grad_x, None, None, grad_a, grad_b, None


def fuse(model: torch.nn.Module) -> int:
    """Replaces the forward pass of every adapted linear module of `model` that is plain; gives how many.

    Called again when adapters came to it, it leaves those modules to PEFT that are no longer plain.
    """
    adapted = [module for module in model.modules() if isinstance(module, Linear)]
    for module in adapted:
        vars(module).pop("forward", None)
    plain = [module for module in adapted if _is_plain(module)]
    for module in plain:
        module.forward = types.MethodType(_forward_instead_of(module.forward), module)
    return len(plain)


def _is_plain(module: Linear) -> bool:
    """Whether nothing but the product is computed: no dropout, no variant of LoRA, no bias of its own; float32, CPU."""
    base = module.get_base_layer()
    quiet = all(isinstance(dropout, torch.nn.Identity) for dropout in module.lora_dropout.values())
    bare = not module.lora_variant and not any(module.lora_bias.values())
    frozen = type(base) is torch.nn.Linear and not any(p.requires_grad for p in base.parameters())
    weights = (*base.parameters(), *module.lora_A.parameters(), *module.lora_B.parameters())
    return quiet and bare and frozen and all((p.dtype, p.device.type) == (torch.float32, "cpu") for p in weights)


def _forward_instead_of(usual: Any) -> Any:
    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        one = not (self.disable_adapters or self.merged or args or kwargs) and len(self.active_adapters) == 1
        if not one or x.dtype is not torch.float32 or torch.is_autocast_enabled("cpu"):
            return cast(Tensor, usual(x, *args, **kwargs))
        name, base = self.active_adapters[0], self.base_layer
        if name not in self.lora_A:  # it adapts other modules than those loaded beside it
            return cast(Tensor, usual(x))
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        out = _Product.apply(x, base.weight, base.bias, a, b, self.scaling[name])  # type: ignore[no-untyped-call]
        return cast(Tensor, out)

    return forward
