"""The weights of the dims' losses."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class DimWeights(nn.Module):
    """Combines (dims,) losses into a weighted mean, so that more dims need no other learning rate.

    Args:
        weights: one for each dim; `equal`; `random`, where the seed includes or excludes each dim but the last; `learnt`, by uncertainty
            (Kendall et al. 2018, https://arxiv.org/abs/1705.07115), which divides a dim's loss by its variance and adds half the variance's
            logarithm, to stop the variances from growing. This sum may be negative.
        dims: their number.

    Example:
        >>> DimWeights((3, 1), 2)(torch.tensor([1.0, 3.0]))
        tensor(1.5000)
    """

    def __init__(self, weights: Literal["equal", "learnt", "random"] | Sequence[float], dims: int) -> None:
        super().__init__()
        self._weights = weights
        self.log_variances = nn.Parameter(torch.zeros(dims), requires_grad=weights == "learnt")

    def forward(self, losses: Tensor, seed: Sequence[int] = (0,)) -> Tensor:
        """Returns the weighted mean of `losses`, (dims,). `seed`, for `random`, is the same on all processes and changes each step."""
        if self._weights == "equal":
            return losses.mean()
        if self._weights == "learnt":
            return (torch.exp(-self.log_variances) * losses + self.log_variances / 2).mean()
        if self._weights == "random":
            weights = [*np.random.default_rng(seed).integers(0, 2, len(losses) - 1).tolist(), 1]
        else:
            weights = list(self._weights)
        shares = torch.tensor(weights, dtype=losses.dtype).to(losses.device, non_blocking=True)
        return (losses * shares).sum() / shares.sum()

    @torch.no_grad()
    def learnt(self) -> list[float] | None:
        """Returns the learnt weights of the dims; None if they are not learnt.

        Every process calls it, because a sharded model's weights are gathered.
        """
        if self._weights != "learnt":
            return None
        log_variances = self.log_variances
        unsharded = log_variances.full_tensor() if isinstance(log_variances, DTensor) else log_variances
        weights: list[float] = torch.exp(-unsharded).tolist()
        return weights
