"""The training objective: one number from the losses of all dims."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reelnest.settings import LossSettings
from reelnest.training.batches.pair_batches import PairBatch
from reelnest.training.losses import make_loss
from reelnest.training.losses.dim_weights import DimWeights


class StepLosses(NamedTuple):
    """One process's share of the losses of a batch or a step. The mean over processes is the loss of the whole batch."""

    total: Tensor
    """() the weighted mean of the losses of all dims."""
    by_dim: Tensor
    """(dims,)"""
    temperature: Tensor
    """(1,)"""

    def detached(self) -> "StepLosses":
        """Returns the losses without their graph."""
        return StepLosses(*(value.detach() for value in self))


class Objective(nn.Module):
    """The configured loss and the dim weights, with their learnt parameters."""

    def __init__(self, settings: LossSettings, dims: Sequence[int]) -> None:
        super().__init__()
        self.loss = make_loss(settings, dims)
        self.dim_weights = DimWeights(settings.dim_weights, len(dims))

    def forward(self, vectors: Tensor, batch: PairBatch, seed: Sequence[int]) -> StepLosses:
        """Returns the losses of this process's vectors (see `Loss.forward`). `seed` is the step's, the same for all of its batches."""
        by_dim = self.loss(vectors, batch)
        return StepLosses(self.dim_weights(by_dim, seed), by_dim, self.loss.temperature)

    @torch.no_grad()
    def limit_parameters(self) -> None:
        """Clamps learnt values to their range. Called after each optimizer step."""
        self.loss.limit_parameters()
