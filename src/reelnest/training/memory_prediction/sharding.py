"""What a process holds of a model that FSDP2 shards: a share of weights, gradients and optimizer states, and what is gathered."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

SHARDED = ("weights", "gradients", "optimizer")
"""The components of a step's memory that are divided by the number of processes."""

GATHERED_LAYERS = 2
"""Layers that are unsharded at once: one computes while the next is gathered."""


def gathered_bytes(model: nn.Module, wrap_classes: Sequence[str], *, half: bool) -> tuple[int, int]:
    """Returns the bytes of unsharded weights, and of their gradients, when most are unsharded.

    These are the parameters outside the layers of `wrap_classes` (embeddings, norms), which are gathered for the whole step, and the
    largest two layers. With `half`, weights are gathered in 16 bits; gradients are reduced in the dtype of the weights.
    """
    layers = [module for module in model.modules() if type(module).__name__ in wrap_classes]
    in_layers = {parameter for layer in layers for parameter in layer.parameters()}
    root = [parameter for parameter in model.parameters() if parameter not in in_layers]

    def total(size: Callable[[Tensor], int]) -> int:
        by_layer = sorted((sum(map(size, layer.parameters())) for layer in layers), reverse=True)
        return sum(map(size, root)) + sum(by_layer[:GATHERED_LAYERS])

    weights = total(lambda weight: weight.numel() * (min(2, weight.element_size()) if half else weight.element_size()))
    return weights, total(lambda weight: weight.nbytes if weight.requires_grad else 0)
