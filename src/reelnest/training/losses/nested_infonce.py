"""The contrastive loss of nested vectors, in both directions, over all processes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reelnest.settings import NestedInfoNceSettings
from reelnest.training.batches.pair_batches import PairBatch
from reelnest.training.distributed import gather, gather_with_gradient, world
from reelnest.training.losses.gather import GatheredBatch, gather_batch
from reelnest.training.losses.loss import Loss, register_loss
from reelnest.training.losses.prefix_logsumexp import Pairing, nested_log_sums, partner_cosines

MAX_INVERSE_TEMPERATURE = 100.0
"""A learnt temperature stays at 0.01 or above, as in CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.5)."""
MAX_LOG_SCALE = math.log(MAX_INVERSE_TEMPERATURE)


@register_loss(NestedInfoNceSettings)
class NestedInfoNce(Loss):
    """InfoNCE of each prefix (see `nested_losses`), with a fixed or learnt temperature."""

    def __init__(self, settings: NestedInfoNceSettings, dims: Sequence[int]) -> None:
        super().__init__(settings, dims)
        self._settings = settings
        # A logarithm, so that optimizer steps are relative.
        self.log_scale = nn.Parameter(torch.tensor([-math.log(settings.temperature)]), requires_grad=settings.learn_temperature)

    def forward(self, vectors: Tensor, batch: PairBatch) -> Tensor:
        """Returns losses (dims,) of this process's share."""
        gathered = gather_batch(vectors, batch, with_queries=self._settings.intra_modal_negatives)
        return nested_losses(gathered, self.dims, self.temperature, self._settings)

    @property
    def temperature(self) -> Tensor:
        """The divisor of the cosines, (1,)."""
        return torch.exp(-self.log_scale)

    def limit_parameters(self) -> None:
        """Clamps a learnt temperature to its range."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(max=MAX_LOG_SCALE)


def nested_losses(batch: GatheredBatch, dims: Sequence[int], temperature: Tensor, settings: NestedInfoNceSettings) -> Tensor:
    """Returns one process's share of each prefix's InfoNCE, the mean of query-to-target and target-to-query.

    Each prefix is normalised separately, because searches use it separately. A query's negatives are the other targets, extra ones
    included; a target's negatives are the other queries. `settings.intra_modal_negatives` adds the other queries for a query, and the other
    targets for a target. Both directions use the similarities of this process's queries and all targets: a query's sum over targets is
    complete here, and a target's sum over queries is combined from all processes.

    The mean over processes is the loss of the whole batch. Gradients are those of the sum over processes: `gather_with_gradient` sums the
    processes' gradients of a target, and DDP's mean over processes makes it the mean.

    Sources: InfoNCE, van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; nested prefixes, Kusupati et al. 2022,
    https://arxiv.org/abs/2205.13147; intra-modal negatives, Li et al. 2023, https://arxiv.org/abs/2308.03281, with one sum per direction.

    Args:
        batch: the compared vectors and their relations. `settings.intra_modal_negatives` reads `all_queries`, `related_queries` and
            `related_targets`. `settings.graded_relevance` weights each pair by its `relevance`.
        dims: the prefix lengths, ascending.
        temperature: (1,) the divisor of the cosines.
        settings: see NestedInfoNceSettings.

    Returns:
        (dims,) losses, differentiable.

    Example:
        >>> vectors = torch.eye(2)
        >>> nested_losses(GatheredBatch(vectors, vectors, slice(0, 2)), [2], torch.ones(1), NestedInfoNceSettings())
        tensor([0.3133])
    """
    queries, targets, rows = batch.queries, batch.targets, batch.rows
    share, (_, processes) = len(queries), world()
    pairs = share * processes
    scale = 1 / temperature
    limits = None
    if settings.false_negative_margin is not None:
        own_limits = partner_cosines(queries, targets[rows], dims) + settings.false_negative_margin  # (dims, share)
        limits = own_limits, torch.cat(list(gather(own_limits)), dim=1)
    across = Pairing(rows.start, partner_counts=True, paired=pairs, masked=batch.related)
    if limits is not None:
        across = across._replace(row_limits=limits[0], column_limits=limits[1])
    query_sums, target_sums, positives = nested_log_sums(queries, targets, dims, scale, across)
    own = slice(None) if processes == 1 else rows
    target_sums = gather_with_gradient(target_sums).logsumexp(0)[:, own] if processes > 1 else target_sums  # (dims, share)
    if settings.intra_modal_negatives:
        within = Pairing(rows.start, partner_counts=False, row_limits=None if limits is None else limits[0])
        all_queries = queries if batch.all_queries is None else batch.all_queries
        among_queries, *_ = nested_log_sums(queries, all_queries, dims, scale, within._replace(masked=batch.related_queries))
        among_targets, *_ = nested_log_sums(targets[rows], targets[:pairs], dims, scale, within._replace(masked=batch.related_targets))
        query_sums, target_sums = torch.logaddexp(query_sums, among_queries), torch.logaddexp(target_sums, among_targets)
    by_pair = (query_sums + target_sums) / 2 - positives  # (dims, share)
    if settings.graded_relevance and batch.relevance is not None:
        by_pair = by_pair * (batch.relevance / gather(batch.relevance).mean())
    return by_pair.mean(1)
