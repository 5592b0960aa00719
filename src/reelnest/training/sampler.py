"""Which pairs stand in which batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from reelnest.errors import DataError


@dataclass(frozen=True)
class BatchOrder:
    """The batches of each epoch, as a function of the seed and the epoch alone.

    The order knows nothing of processes: rank r of n takes the r-th of n equal, contiguous slices of each batch, so that two processes see
    exactly what one would, and a resumed run what an unbroken one would. The pairs that do not fill a last batch wait for another epoch's
    order: batches must be equal, or their losses would not be comparable.
    """

    pairs: int
    batch_size: int
    seed: int

    @classmethod
    def fitting(cls, pairs: int, batch_size: int, seed: int, processes: int) -> Self:
        """An order of batches of `batch_size`, or, with fewer pairs than that, of one batch that all processes share evenly.

        Raises DataError if there are too few pairs for each process to have one, or fewer than two.
        """
        fitting = min(batch_size, pairs // processes * processes)
        if fitting < max(2, processes):
            raise DataError(
                f"prepared/pairs.parquet: the training split has {pairs} pairs, too few for {processes} processes, which need at least"
                f" {max(2, processes)}. Add pairs to data/pairs.jsonl, or lower data.validation_fraction and data.test_fraction."
            )
        return cls(pairs, fitting, seed)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return self.pairs // self.batch_size

    def epoch(self, epoch: int) -> np.ndarray:
        """(batches, batch_size) int64 row numbers of pairs."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.pairs)
        return order[: self.batches * self.batch_size].reshape(self.batches, self.batch_size)

    def steps(self, epoch: int, accumulation_steps: int, first: int = 0) -> Iterator[np.ndarray]:
        """The batches of each optimizer step of an epoch, from step `first` on: (up to accumulation_steps, batch_size)."""
        batches = self.epoch(epoch)
        for start in range(first * accumulation_steps, self.batches, accumulation_steps):
            yield batches[start : start + accumulation_steps]

    def steps_per_epoch(self, accumulation_steps: int) -> int:
        """Optimizer steps in an epoch; the last one has fewer batches where accumulation_steps does not divide them."""
        return -(-self.batches // accumulation_steps)
