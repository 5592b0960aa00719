"""A linear layer and its low-rank adapter as one product.

peft computes W x + s B (A x): three products over all tokens, two of them narrow, and two passes over the result. B A is small compared
with the tokens. So this module computes W + s B A first; then forward, and backward to the input, are one product each. This saves a third
of a step's time on a CPU. Gradients of A and B do not need that of W:

    dA = s (dy B)ᵀ x        dB = s dyᵀ (x Aᵀ)

peft's forward runs if the sum would lose precision or an operation comes between (weights in bfloat16 or 4 bits, dropout, autocast).
Otherwise values differ from peft's only by rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


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


class LinearWithAdapter(Linear):
    """peft's LoRA layer, with the forward pass above if possible."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Computes the same as peft's forward."""
        adapter = self.active_adapters[0]
        if args or kwargs or not self._is_plain(x, adapter):
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        base = self.base_layer
        a, b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        product: Tensor = _LinearWithAdapter.apply(x, base.weight, base.bias, a, b, self.scaling[adapter])
        return product

    def _is_plain(self, x: Tensor, adapter: str) -> bool:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1 or adapter not in self.lora_A or self.lora_variant:
            return False
        weights = (self.base_layer.weight, self.lora_A[adapter].weight, self.lora_B[adapter].weight)
        return (
            all(tensor.dtype == torch.float32 and not isinstance(tensor, DTensor) for tensor in (x, *weights))
            and not weights[0].requires_grad
            and isinstance(self.lora_dropout[adapter], nn.Identity)
            and not torch.is_autocast_enabled(x.device.type)
        )


def join_adapters(backbone: nn.Module) -> None:
    """Makes LoRA layers over plain linear layers of `backbone` compute as above."""
    for module in backbone.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = LinearWithAdapter
