"""What is trained, and the losses of a contrastive batch over all processes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from reelnest.encoder.batches import Batch
from reelnest.settings import Loss
from reelnest.training.batches.pair_batches import PairBatch
from reelnest.training.distributed import gather_with_gradient, world
from reelnest.training.losses.losses import MAX_LOG_SCALE, LossScales, nested_losses


class ContrastiveModel(nn.Module):
    """The encoder and the loss's own numbers: all that training changes, in one module whose one forward touches every parameter."""

    def __init__(self, encoder: nn.Module, settings: Loss, dims: int) -> None:
        """`dims` is how many there are."""
        super().__init__()
        self.encoder = encoder
        # One number in a vector: sharded training takes no scalars. A logarithm, since steps should be relative.
        self.log_scale = nn.Parameter(torch.tensor([-math.log(settings.temperature)]), requires_grad=settings.learn_temperature)
        self.log_variances = nn.Parameter(torch.zeros(dims), requires_grad=settings.dim_weights == "learnt")

    def forward(self, batch: Batch) -> tuple[Tensor, LossScales]:
        """Vectors (entries, width), and what does not depend on the batch (see gradient_cache)."""
        return self.encoder(batch), LossScales(torch.exp(-self.log_scale), self.log_variances.clone())

    @torch.no_grad()
    def learnt_weights(self) -> list[float]:
        """What the dims' losses are multiplied by; every process calls it, since a sharded model's numbers lie on all of them."""
        found = self.log_variances.full_tensor() if isinstance(self.log_variances, DTensor) else self.log_variances
        weights: list[float] = torch.exp(-found).tolist()
        return weights

    @torch.no_grad()
    def limit_temperature(self) -> None:
        """Keeps a learnt temperature in its range; called after each optimizer step."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(max=MAX_LOG_SCALE)


def contrastive_losses(vectors: Tensor, temperature: Tensor, batch: PairBatch, dims: Sequence[int], settings: Loss) -> Tensor:
    """Losses (dims,) of this process's share, with every process's items as negatives.

    `vectors` are the share's queries, targets and extra negatives, (entries, width). The mean of the losses over processes is the loss of
    the whole batch, and so are the gradients, once averaged as DDP and FSDP do: `gather_with_gradient` brings each vector the gradients
    that the other processes' losses have for it.
    """
    rank, processes = world()
    share, device = batch.share, vectors.device
    each = batch.related.shape[1] // processes - share  # extra negatives of a process, with padding
    queries, others = vectors.float().split([share, len(vectors) - share])
    # Padding is masked everywhere. Ones, since the prefixes of a vector of zeros have no direction.
    others = torch.cat([others, others.new_ones(share + each - len(others), others.shape[1])])
    gathered = gather_with_gradient(others)  # (processes, share + each, width)
    targets = torch.cat([gathered[:, :share].flatten(0, 1), gathered[:, share:].flatten(0, 1)])  # (columns, width)
    return nested_losses(
        queries,
        targets,
        slice(rank * share, (rank + 1) * share),
        batch.related.to(device),
        dims,
        temperature,
        settings=settings,
        relevance=batch.relevance.to(device),
        all_queries=gather_with_gradient(queries).flatten(0, 1) if settings.same_side_negatives else None,
        related_queries=None if batch.related_queries is None else batch.related_queries.to(device),
        related_targets=None if batch.related_targets is None else batch.related_targets.to(device),
    )
