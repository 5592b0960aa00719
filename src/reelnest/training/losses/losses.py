"""The contrastive loss of nested vectors, in both directions, over all processes."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reelnest.settings import Loss
from reelnest.training.distributed import gather, gather_with_gradient, world
from reelnest.training.losses.prefix_logsumexp import Pairing, nested_log_sums, partner_cosines

MAX_INVERSE_TEMPERATURE = 100.0
"""A learnt temperature stays at 0.01 or above, as in CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.5)."""
MAX_LOG_SCALE = math.log(MAX_INVERSE_TEMPERATURE)


class LossScales(NamedTuple):
    """What of the loss may be learnt. The model's forward gives them beside its vectors, since sharded training gathers them there."""

    temperature: Tensor
    """(1,) what cosines are divided by."""
    log_variances: Tensor
    """(dims,) of the losses' uncertainty weighting; zeros where the weights are not learnt."""


def nested_losses(
    queries: Tensor,
    targets: Tensor,
    rows: slice,
    related: Tensor | None,
    dims: Sequence[int],
    temperature: Tensor,
    *,
    settings: Loss,
    relevance: Tensor | None = None,
    all_queries: Tensor | None = None,
    related_queries: Tensor | None = None,
    related_targets: Tensor | None = None,
) -> Tensor:
    """InfoNCE of each prefix, the mean of query-to-target and target-to-query: one process's share of it.

    A prefix is normalised on its own, since it is searched on its own. A query's negatives are the other targets, extra ones included; a
    target's negatives are the other queries; with `settings.same_side_negatives` also the other items of their own side. Both directions
    read the same similarities, of this process's queries and all targets: a query's sum over targets is complete here, and a target's sum
    over queries is put together from all processes.

    The mean over processes is the loss of the whole batch. The gradients are those of the sum over processes: `gather_with_gradient` adds
    up what the processes find for a target, and DDP's mean over processes makes the mean of it.

    Sources: InfoNCE, van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; nested prefixes, Kusupati et al. 2022,
    https://arxiv.org/abs/2205.13147; negatives of the same side, Li et al. 2023, https://arxiv.org/abs/2308.03281, with a sum a direction.

    Args:
        queries: (share, width), this process's, not normalised.
        targets: (columns, width) of all processes, not normalised: those of all pairs, then extra negatives.
        rows: this process's pairs among all pairs. All processes have equally many.
        related: (share, columns) bool, True where a target is no negative of a query: known to be right too, the same item, or padding.
            What it says of a pair's own target does not matter. None where all others are negatives.
        dims: the prefixes' lengths, rising.
        temperature: (1,) what cosines are divided by.
        settings: see config.Loss; `dim_weights` is `weighted`'s.
        relevance: (share,) grades above 0, for `settings.graded_relevance`: a pair counts as much as its grade.
        all_queries: (pairs, width) of all processes, for `settings.same_side_negatives`. None in a single process.
        related_queries: (share, pairs) bool, True where another query is no negative of a query.
        related_targets: (share, pairs) bool, the same for the targets of pairs.

    Returns:
        (dims,) losses, differentiable.

    Example:
        >>> vectors = torch.eye(2)
        >>> nested_losses(vectors, vectors, slice(0, 2), None, [2], torch.ones(1), settings=Loss())
        tensor([0.3133])
    """
    share, (_, processes) = len(queries), world()
    pairs = share * processes
    scale = 1 / temperature
    limits = None
    if settings.false_negative_margin is not None:
        own_limits = partner_cosines(queries, targets[rows], dims) + settings.false_negative_margin  # (dims, share)
        limits = own_limits, torch.cat(list(gather(own_limits)), dim=1)
    crossing = Pairing(rows.start, partner_counts=True, paired=pairs, masked=related)
    if limits is not None:
        crossing = crossing._replace(row_limits=limits[0], column_limits=limits[1])
    query_sums, target_sums, positives = nested_log_sums(queries, targets, dims, scale, crossing)
    own = slice(None) if processes == 1 else rows
    target_sums = gather_with_gradient(target_sums).logsumexp(0)[:, own] if processes > 1 else target_sums  # (dims, share)
    if settings.same_side_negatives:
        alike = Pairing(rows.start, partner_counts=False, row_limits=None if limits is None else limits[0])
        others = queries if all_queries is None else all_queries
        beside_queries, *_ = nested_log_sums(queries, others, dims, scale, alike._replace(masked=related_queries))
        beside_targets, *_ = nested_log_sums(targets[rows], targets[:pairs], dims, scale, alike._replace(masked=related_targets))
        query_sums, target_sums = torch.logaddexp(query_sums, beside_queries), torch.logaddexp(target_sums, beside_targets)
    of_pairs = (query_sums + target_sums) / 2 - positives  # (dims, share)
    if settings.graded_relevance and relevance is not None:
        of_pairs = of_pairs * (relevance / gather(relevance).mean())
    return of_pairs.mean(1)


def weighted(
    losses: Tensor,
    weights: Literal["equal", "learnt", "random"] | Sequence[float],
    *,
    log_variances: Tensor | None = None,
    seed: Sequence[int] = (0,),
) -> Tensor:
    """One loss of (dims,) losses: a weighted mean, so that the learning rate keeps its meaning when a dim is added.

    Args:
        losses: (dims,).
        weights: one for each dim; `equal`; `random`, each dim but the last one counts or not, as `seed` says; `learnt`, by uncertainty
            (Kendall et al. 2018, https://arxiv.org/abs/1705.07115): a dim's loss is divided by its variance, and half the variance's
            logarithm is added, without which all variances would grow for ever. That sum may fall below 0.
        log_variances: (dims,), for `learnt`.
        seed: for `random`; the same on all processes, and another one each step.

    Example:
        >>> weighted(torch.tensor([1.0, 3.0]), (3, 1))
        tensor(1.5000)
    """
    if weights == "equal":
        return losses.mean()
    if weights == "learnt":
        assert log_variances is not None  # noqa: S101 (for the type checker)
        return (torch.exp(-log_variances) * losses + log_variances / 2).mean()
    given = [*np.random.default_rng(seed).integers(0, 2, len(losses) - 1).tolist(), 1] if weights == "random" else weights
    shares = torch.tensor(given, dtype=losses.dtype, device=losses.device)
    return (losses * shares).sum() / shares.sum()
