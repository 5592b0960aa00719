"""One contrastive batch: from pairs to the losses of each dim, over all processes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from reelnest.data.batches import Batch, Batcher
from reelnest.data.prepared import Pairs, Prepared
from reelnest.training.distributed import gather_with_gradient, world
from reelnest.training.losses import MAX_LOG_SCALE, both_directions


@dataclass
class PairBatch:
    """One process's share of a contrastive batch, ready for the model."""

    inputs: Batch
    """The share's queries, then its targets: one forward encodes both (a second one in a step would break DDP)."""
    related: Tensor
    """(pairs, pairs) bool over the whole batch of all processes: query i and target j belong together or are the same item."""


class PairBatcher:
    """Makes a process's share of a batch from row numbers of pairs."""

    def __init__(self, prepared: Prepared, pairs: Pairs, batcher: Batcher, rank: int, processes: int) -> None:
        self._prepared = prepared
        self._pairs = pairs
        self._batcher = batcher
        self._rank = rank
        self._processes = processes

    def __call__(self, rows: np.ndarray) -> PairBatch:
        """`rows` are the whole batch's, of which this process encodes its contiguous slice."""
        queries, targets = self._pairs.queries[rows], self._pairs.targets[rows]
        share = len(rows) // self._processes
        mine = slice(self._rank * share, (self._rank + 1) * share)
        entries = [self._prepared.entry(int(item), "query") for item in queries[mine]]
        entries += [self._prepared.entry(int(item), "target") for item in targets[mine]]
        return PairBatch(self._batcher(entries), torch.from_numpy(self._related(queries, targets)))

    def _related(self, queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
        related = queries[:, None] == targets[None, :]  # (pairs, pairs)
        for row, query in enumerate(queries):
            related[row] |= np.isin(targets, self._prepared.related(int(query)))
        return related


class ContrastiveModel(nn.Module):
    """The encoder and the temperature: all that training changes, in one module whose one forward touches every parameter."""

    def __init__(self, encoder: nn.Module, temperature: float, *, learn_temperature: bool) -> None:
        super().__init__()
        self.encoder = encoder
        # One number in a vector: sharded training takes no scalars. A logarithm, since steps should be relative.
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]), requires_grad=learn_temperature)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors (entries, width) and the temperature (1,)."""
        return self.encoder(batch), torch.exp(-self.log_scale)

    @torch.no_grad()
    def limit_temperature(self) -> None:
        """Keeps a learnt temperature in its range; called after each optimizer step."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(max=MAX_LOG_SCALE)


def contrastive_losses(model: nn.Module, batch: PairBatch, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Losses (dims,) of this process's share, with every process's items as negatives, and the temperature (1,).

    The mean of the losses over processes is the loss of the whole batch, and so are the gradients, once averaged as DDP and FSDP do:
    `gather_with_gradient` brings each vector the gradients that the other processes' losses have for it.
    """
    vectors, temperature = model(batch.inputs)  # (2 * share, width)
    rank, _ = world()
    share = len(vectors) // 2
    gathered = gather_with_gradient(vectors.float())  # (processes, 2 * share, width)
    queries = gathered[:, :share].flatten(0, 1)  # (pairs, width)
    targets = gathered[:, share:].flatten(0, 1)
    rows = slice(rank * share, (rank + 1) * share)
    return both_directions(queries, targets, rows, batch.related.to(vectors.device), dims, temperature), temperature.detach()
