"""What training minimises: one number, made of the losses of all dims."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reelnest.settings import LossSettings
from reelnest.training.batches.pair_batches import PairBatch
from reelnest.training.losses import make_loss
from reelnest.training.losses.dim_weights import DimWeights


class StepLosses(NamedTuple):
    """One process's share of the losses of a batch, or of a step's batches. Means over processes are the whole batch's."""

    total: Tensor
    """() the weighted mean of the losses of all dims."""
    by_dim: Tensor
    """(dims,)"""
    temperature: Tensor
    """(1,)"""

    def detached(self) -> "StepLosses":
        """The same numbers without their graph."""
        return StepLosses(*(value.detach() for value in self))


class Objective(nn.Module):
    """The loss that the settings choose, and the weights of the dims, with what both of them learn."""

    def __init__(self, settings: LossSettings, dims: Sequence[int]) -> None:
        super().__init__()
        self.loss = make_loss(settings, dims)
        self.dim_weights = DimWeights(settings.dim_weights, len(dims))

    def forward(self, vectors: Tensor, batch: PairBatch, seed: Sequence[int]) -> StepLosses:
        """The losses of this process's vectors (see `Loss.forward`). `seed` is that of the step, the same for all of its batches."""
        by_dim = self.loss(vectors, batch)
        return StepLosses(self.dim_weights(by_dim, seed), by_dim, self.loss.temperature)

    @torch.no_grad()
    def limit_parameters(self) -> None:
        """Puts what was learnt back into its range; called after each optimizer step."""
        self.loss.limit_parameters()
