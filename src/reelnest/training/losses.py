"""Contrastive losses over nested vectors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_INVERSE_TEMPERATURE = 100.0
"""A learnt temperature stays at 0.01 or above, as in CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.5)."""
MAX_LOG_SCALE = math.log(MAX_INVERSE_TEMPERATURE)


def matryoshka_infonce(
    queries: Tensor,
    targets: Tensor,
    positive: Tensor,
    masked: Tensor,
    dims: Sequence[int],
    temperature: Tensor | float,
) -> Tensor:
    """InfoNCE of each prefix of the vectors, so that the first numbers of a vector are a good vector by themselves.

    A prefix is normalised on its own, since it is searched on its own. Only one direction is counted: for the other one, call again with
    queries and targets swapped. Rows may be one process's share of the queries; targets are those of all processes, and a mean over equal
    shares of rows is then the mean over all.

    Sources: InfoNCE, van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; nested prefixes, Kusupati et al. 2022,
    https://arxiv.org/abs/2205.13147.

    Args:
        queries: (rows, width), not normalised.
        targets: (columns, width), not normalised.
        positive: (rows,) int64, the column of each row's right answer.
        masked: (rows, columns) bool, True where a column is known to be right too and so is no negative. Never True at `positive`.
        dims: the prefixes' lengths.
        temperature: what cosines are divided by.

    Returns:
        (dims,) the mean over rows, one for each prefix, differentiable.

    Example:
        >>> vectors = torch.eye(2)
        >>> matryoshka_infonce(vectors, vectors, torch.arange(2), torch.zeros(2, 2, dtype=torch.bool), [2], 1.0)
        tensor([0.3133])
    """
    losses = []
    for dim in dims:
        cosines = F.normalize(queries[:, :dim], dim=-1) @ F.normalize(targets[:, :dim], dim=-1).T  # (rows, columns)
        logits = (cosines / temperature).masked_fill(masked, -torch.inf)
        losses.append(F.cross_entropy(logits, positive))
    return torch.stack(losses)


def both_directions(
    queries: Tensor, targets: Tensor, rows: slice, related: Tensor, dims: Sequence[int], temperature: Tensor | float
) -> Tensor:
    """Mean of query-to-target and target-to-query InfoNCE of one process's share of a batch.

    Args:
        queries: (pairs, width) of all processes; pair i is queries[i] and targets[i].
        targets: (pairs, width).
        rows: this process's pairs.
        related: (pairs, pairs) bool, True where query i and target j belong together, or are the same item; the diagonal does not matter.
        dims: the prefixes' lengths.
        temperature: what cosines are divided by.

    Returns:
        (dims,) losses.
    """
    positive = torch.arange(len(queries), device=queries.device)
    masked = related & ~torch.eye(len(queries), dtype=torch.bool, device=related.device)
    forth = matryoshka_infonce(queries[rows], targets, positive[rows], masked[rows], dims, temperature)
    back = matryoshka_infonce(targets[rows], queries, positive[rows], masked.T[rows], dims, temperature)
    return (forth + back) / 2


def weighted(losses: Tensor, weights: Sequence[float] | None) -> Tensor:
    """The weighted mean of (dims,) losses: a mean, so that the learning rate keeps its meaning when a dim is added."""
    if weights is None:
        return losses.mean()
    shares = torch.tensor(weights, dtype=losses.dtype, device=losses.device)
    return (losses * shares).sum() / shares.sum()
