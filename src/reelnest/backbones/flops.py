"""Floating point operations of matrix products, as the mathematics asks for them."""

from collections.abc import Iterable

from torch import nn


def matrix_flops(modules: Iterable[nn.Module], *, backward: bool) -> float:
    """Of one token through all weight matrices of `modules`; the tables of embeddings are looked up, not multiplied.

    Each weight costs 2 FLOPs a token forward, 2 more where a gradient passes through it (`backward`), and 2 more where it trains itself.
    """
    flops = 0.0
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv3d):
                trains = layer.weight.requires_grad
                flops += layer.weight.numel() * (2 + (2 if backward else 0) + (2 if trains else 0))
    return flops


def trains(module: nn.Module) -> bool:
    """Whether any weight of it does."""
    return any(parameter.requires_grad for parameter in module.parameters())
