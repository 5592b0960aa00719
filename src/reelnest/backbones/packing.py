"""Packs all rows of a batch into one sequence without padding.

A language model spends nearly all of its time on independent tokens (projections, MLP); only attention needs the row boundaries. So the
tokens of all rows go through the layers as one sequence. Attention groups rows of similar length and pads only within a group.

The indices are computed here, on the CPU and before the step: reading a number from a GPU waits for the GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST_PADDING = 1.5
"""Largest ratio between the longest and the shortest row of a group."""


@dataclass
class Packing:
    """The location of each token of a batch.

    A group's rows are padded on the right with copies of their last token. Under a causal mask no token attends to its right, so padding
    needs no mask, and its results are dropped.
    """

    tokens: Tensor  # int64 (tokens,): indices into the concatenated, flattened padded tokens of the segments
    groups: list[Tensor]  # int64 (rows, longest) each: packed indices of the group's tokens
    inverse: Tensor  # int64 (tokens,): indices of the packed tokens in the concatenated, flattened groups
    pooled: list[Tensor]  # bool (rows, longest) each: tokens that mean pooling reads
    row_order: Tensor  # int64 (all rows,): indices of the rows in the concatenated groups
    last: Tensor  # int64 (all rows,): packed indices of the rows' last tokens
    ends: Tensor  # int32 (all rows + 1,): row boundaries
    longest: int

    @classmethod
    def of(cls, masks: Sequence[np.ndarray], pooling_masks: Sequence[np.ndarray]) -> "Packing":
        """Builds the packing from each segment's attention mask and pooling mask, int (rows, tokens). Each row has at least one token."""
        tokens = np.flatnonzero(np.concatenate([mask.reshape(-1) for mask in masks]))
        is_pooled = np.concatenate([mask.reshape(-1) for mask in pooling_masks])[tokens] > 0
        lengths = np.concatenate([mask.sum(1) for mask in masks])  # (all rows,)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        by_length = np.argsort(lengths, kind="stable")
        groups, pooled = [], []
        inverse = np.empty(len(tokens), dtype=np.int64)
        done = 0
        for chosen in np.split(by_length, _group_ends(lengths[by_length])):
            longest = int(lengths[chosen[-1]])
            steps = np.arange(longest)
            real = steps < lengths[chosen, None]  # (rows, longest)
            places = ends[chosen, None] + np.minimum(steps, lengths[chosen, None] - 1)
            inverse[places[real]] = done + np.flatnonzero(real)
            done += places.size
            groups.append(torch.from_numpy(places))
            pooled.append(torch.from_numpy(is_pooled[places] & real))
        return cls(
            torch.from_numpy(tokens),
            groups,
            torch.from_numpy(inverse),
            pooled,
            torch.from_numpy(np.argsort(by_length)),
            torch.from_numpy(ends[1:] - 1),
            torch.from_numpy(ends.astype(np.int32)),
            int(lengths.max()),
        )

    def to(self, device: torch.device | str) -> "Packing":
        """Returns a copy on `device`."""
        return Packing(
            self.tokens.to(device, non_blocking=True),
            [group.to(device, non_blocking=True) for group in self.groups],
            self.inverse.to(device, non_blocking=True),
            [mask.to(device, non_blocking=True) for mask in self.pooled],
            self.row_order.to(device, non_blocking=True),
            self.last.to(device, non_blocking=True),
            self.ends.to(device, non_blocking=True),
            self.longest,
        )


def _group_ends(lengths: np.ndarray) -> list[int]:
    """Returns the boundaries that divide rows of ascending `lengths` into groups."""
    ends: list[int] = []
    first = 0
    while True:
        end = int(np.searchsorted(lengths, MOST_PADDING * lengths[first], side="right"))
        if end == len(lengths):
            return ends
        ends.append(end)
        first = end
