"""Floating point operations of matrix products."""

from collections.abc import Iterable

from torch import nn


def matrix_flops(modules: Iterable[nn.Module], *, backward: bool) -> float:
    """Returns the FLOPs of one token through all weight matrices of `modules`; embedding tables are not multiplied and do not count.

    Each weight costs 2 FLOPs per token forward, 2 more if a gradient passes through it (`backward`), and 2 more if it trains.
    """
    flops = 0.0
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv3d):
                trains = layer.weight.requires_grad
                # A 4-bit layer packs its weights into half as many numbers.
                weights = layer.in_features * layer.out_features if isinstance(layer, nn.Linear) else layer.weight.numel()
                flops += weights * (2 + (2 if backward else 0) + (2 if trains else 0))
    return flops


def trains(module: nn.Module) -> bool:
    """Returns whether any weight of `module` trains."""
    return any(parameter.requires_grad for parameter in module.parameters())
