"""A direct implementation of the loss, dim by dim with full matrices: the reference for the nested loss."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from reelnest.settings import NestedInfoNceSettings


def plain_losses(
    queries: Tensor,
    targets: Tensor,
    related: Tensor,
    dims: Sequence[int],
    temperature: Tensor,
    settings: NestedInfoNceSettings,
    relevance: Tensor | None = None,
    related_queries: Tensor | None = None,
    related_targets: Tensor | None = None,
) -> Tensor:
    """(dims,) losses of a whole batch in one process: queries (pairs, width), targets (columns, width)."""
    pairs = len(queries)
    own = torch.eye(pairs, len(targets), dtype=torch.bool)
    itself = own[:, :pairs]
    losses = []
    for dim in dims:
        q, t = F.normalize(queries[:, :dim], dim=-1), F.normalize(targets[:, :dim], dim=-1)
        cosines = q @ t.T
        positives = cosines.diagonal()
        forth = [(cosines, related & ~own)]
        from_targets = [(cosines[:, :pairs].T, (related & ~own)[:, :pairs].T)]
        if settings.intra_modal_negatives:
            assert related_queries is not None
            assert related_targets is not None
            forth.append((q @ q.T, related_queries | itself))
            from_targets.append((t[:pairs] @ t[:pairs].T, related_targets | itself))
        sums = [_log_sum(blocks, positives, temperature, settings.false_negative_margin) for blocks in (forth, from_targets)]
        of_pairs = (sums[0] + sums[1]) / 2 - positives / temperature
        if settings.graded_relevance:
            assert relevance is not None
            of_pairs = of_pairs * relevance / relevance.mean()
        losses.append(of_pairs.mean())
    return torch.stack(losses)


def _log_sum(blocks: list[tuple[Tensor, Tensor]], positives: Tensor, temperature: Tensor, margin: float | None) -> Tensor:
    logits = []
    for number, (cosines, masked) in enumerate(blocks):
        if margin is not None:
            too_alike = cosines > positives[:, None] + margin
            if number == 0:
                too_alike.fill_diagonal_(False)
            masked = masked | too_alike
        logits.append((cosines / temperature).masked_fill(masked, -torch.inf))
    return torch.cat(logits, dim=1).logsumexp(1)
