"""How much each dim's loss counts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class DimWeights(nn.Module):
    """One loss of (dims,) losses: a weighted mean, so that the learning rate keeps its meaning when a dim is added.

    Args:
        weights: one for each dim; `equal`; `random`, each dim but the last one counts or not, as the seed decides; `learnt`, by uncertainty
            (Kendall et al. 2018, https://arxiv.org/abs/1705.07115): a dim's loss is divided by its variance, and half the variance's
            logarithm is added, without which all variances would grow for ever. That sum may fall below 0.
        dims: how many there are.

    Example:
        >>> DimWeights((3, 1), 2)(torch.tensor([1.0, 3.0]))
        tensor(1.5000)
    """

    def __init__(self, weights: Literal["equal", "learnt", "random"] | Sequence[float], dims: int) -> None:
        super().__init__()
        self._weights = weights
        self.log_variances = nn.Parameter(torch.zeros(dims), requires_grad=weights == "learnt")

    def forward(self, losses: Tensor, seed: Sequence[int] = (0,)) -> Tensor:
        """The weighted mean of `losses`, (dims,). `seed` is for `random`: the same on all processes, and another one each step."""
        if self._weights == "equal":
            return losses.mean()
        if self._weights == "learnt":
            return (torch.exp(-self.log_variances) * losses + self.log_variances / 2).mean()
        if self._weights == "random":
            weights = [*np.random.default_rng(seed).integers(0, 2, len(losses) - 1).tolist(), 1]
        else:
            weights = list(self._weights)
        shares = torch.tensor(weights, dtype=losses.dtype, device=losses.device)
        return (losses * shares).sum() / shares.sum()

    @torch.no_grad()
    def learnt(self) -> list[float] | None:
        """What the dims' losses are multiplied by; None where that is not learnt.

        Every process calls it, since a sharded model's numbers are spread over all of them.
        """
        if self._weights != "learnt":
            return None
        log_variances = self.log_variances
        unsharded = log_variances.full_tensor() if isinstance(log_variances, DTensor) else log_variances
        weights: list[float] = torch.exp(-unsharded).tolist()
        return weights
