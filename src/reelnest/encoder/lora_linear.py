"""A linear layer and its low-rank adapter with fewer passes over the tokens.

peft computes W x + s B (A x): three products over all tokens, two of them narrow, and two passes over the result. In float32, B A is small
compared with the tokens. So this module computes W + s B A first; then forward, and backward to the input, are one product each. This saves
a third of a step's time on a CPU. Gradients of A and B do not need that of W:

    dA = s (dy B)ᵀ x        dB = s dyᵀ (x Aᵀ)

In half precision, from the weights or autocast, W + s B A would round the adapter away. There the adapter's product is added inside the
matrix product that computes it, without a scaled copy of the result, and without peft's float32 copy of the input.

peft's forward runs for weights in 4 bits and with dropout. Otherwise values differ from peft's only by rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

HALF = (torch.bfloat16, torch.float16)


class _LinearWithAdapter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        return F.linear(x, torch.addmm(weight, b, a, alpha=scaling), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, a, b = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)  # (tokens, out)
        tokens = x.flatten(0, -2)  # (tokens, in)
        of_x = None
        if ctx.needs_input_grad[0]:
            # Computed again, because storing it would double the memory of the weights.
            of_x = (gradient @ torch.addmm(weight, b, a, alpha=ctx.scaling)).view_as(x)
        of_a = ((gradient @ b).T @ tokens).mul_(ctx.scaling)
        of_b = (gradient.T @ (tokens @ a.T)).mul_(ctx.scaling)
        return of_x, None, None, of_a, of_b, None


class _HalfLinearWithAdapter(torch.autograd.Function):
    """The same in half precision. `x` has the dtype of the products; the other tensors may have another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        tokens = x.flatten(0, -2)  # (tokens, in)
        narrow = tokens @ a.to(x.dtype).T  # (tokens, r)
        ctx.save_for_backward(x, weight, a, b, narrow)
        ctx.scaling = scaling
        out = F.linear(tokens, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        return out.addmm_(narrow, b.to(x.dtype).T, alpha=scaling).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, a, b, narrow = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)  # (tokens, out)
        narrow_gradient = gradient @ b.to(x.dtype)  # (tokens, r)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ weight.to(x.dtype)).addmm_(narrow_gradient, a.to(x.dtype), alpha=ctx.scaling).view_as(x)
        of_a = (narrow_gradient.T @ x.flatten(0, -2)).to(a.dtype).mul_(ctx.scaling)
        of_b = (gradient.T @ narrow).to(b.dtype).mul_(ctx.scaling)
        return of_x, None, None, of_a, of_b, None


class LinearWithAdapter(Linear):
    """peft's LoRA layer, with a forward pass from above if possible."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Computes the same as peft's forward."""
        adapter = self.active_adapters[0]
        if args or kwargs or not self._is_plain(adapter):
            return self._by_peft(x, *args, **kwargs)
        base = self.base_layer
        a, b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        product: type[torch.autograd.Function]
        if dtype in HALF and (torch.is_autocast_enabled(x.device.type) or base.weight.dtype == dtype):
            product, x = _HalfLinearWithAdapter, x.to(dtype)
        elif all(tensor.dtype == torch.float32 for tensor in (x, base.weight, a, b)):
            product = _LinearWithAdapter
        else:
            return self._by_peft(x)
        out: Tensor = product.apply(x, base.weight, base.bias, a, b, self.scaling[adapter])
        return out

    def _by_peft(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = super().forward(x, *args, **kwargs)
        return out

    def _is_plain(self, adapter: str) -> bool:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1 or adapter not in self.lora_A or self.lora_variant:
            return False
        weights = (self.base_layer.weight, self.lora_A[adapter].weight, self.lora_B[adapter].weight)
        return (
            not any(isinstance(weight, DTensor) for weight in weights)
            and not weights[0].requires_grad
            and isinstance(self.lora_dropout[adapter], nn.Identity)
        )


def join_adapters(backbone: nn.Module) -> None:
    """Makes LoRA layers over plain linear layers of `backbone` compute as above."""
    for module in backbone.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = LinearWithAdapter
