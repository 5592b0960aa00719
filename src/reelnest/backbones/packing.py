"""All rows of a batch as one sequence without padding.

A language model spends nearly all of its time on each token by itself (projections, MLP); only attention has to know which tokens belong
together. So the tokens of searches and videos, however long, go through the layers one after the other, and only attention sorts them into
rows, of like lengths together. Nothing is spent on padding but inside those groups, in attention alone.

Index work is done here, on the CPU and ahead of the step: on a GPU each number that Python asks for is a wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST_PADDING = 1.5
"""A group's longest row is at most so many times as long as its shortest."""


@dataclass
class Packing:
    """Where each token of a batch stands.

    A group's rows are padded on the right, with copies of their last token: under a causal mask no token sees what stands right of it, so
    attention needs no mask of its own for them, and their results are dropped.
    """

    tokens: Tensor  # int64 (tokens,): places in the parts' padded tokens, flattened, one part after the other
    groups: list[Tensor]  # int64 (rows, longest) each: the packed places of the group's tokens
    back: Tensor  # int64 (tokens,): the packed tokens' places in the groups, flattened, one after the other
    pooled: list[Tensor]  # bool (rows, longest) each: what mean pooling reads
    row_order: Tensor  # int64 (all rows,): the rows' places in the groups, one after the other
    last: Tensor  # int64 (all rows,): the packed places of the rows' last tokens
    ends: Tensor  # int32 (all rows + 1,): where rows begin and end
    longest: int

    @classmethod
    def of(cls, masks: Sequence[np.ndarray], pooling_masks: Sequence[np.ndarray]) -> "Packing":
        """From each part's attention mask and pooling mask, int (rows, tokens). Each row has at least one token."""
        tokens = np.flatnonzero(np.concatenate([mask.reshape(-1) for mask in masks]))
        is_pooled = np.concatenate([mask.reshape(-1) for mask in pooling_masks])[tokens] > 0
        lengths = np.concatenate([mask.sum(1) for mask in masks])  # (all rows,)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        order = np.argsort(lengths, kind="stable")
        groups, pooled = [], []
        back = np.empty(len(tokens), dtype=np.int64)
        done = 0
        for chosen in np.split(order, _group_ends(lengths[order])):
            longest = int(lengths[chosen[-1]])
            steps = np.arange(longest)
            real = steps < lengths[chosen, None]  # (rows, longest)
            places = ends[chosen, None] + np.minimum(steps, lengths[chosen, None] - 1)
            back[places[real]] = done + np.flatnonzero(real)
            done += places.size
            groups.append(torch.from_numpy(places))
            pooled.append(torch.from_numpy(is_pooled[places] & real))
        return cls(
            torch.from_numpy(tokens),
            groups,
            torch.from_numpy(back),
            pooled,
            torch.from_numpy(np.argsort(order)),
            torch.from_numpy(ends[1:] - 1),
            torch.from_numpy(ends.astype(np.int32)),
            int(lengths.max()),
        )

    def to(self, device: torch.device | str) -> "Packing":
        """The same on `device`."""
        return Packing(
            self.tokens.to(device, non_blocking=True),
            [group.to(device, non_blocking=True) for group in self.groups],
            self.back.to(device, non_blocking=True),
            [mask.to(device, non_blocking=True) for mask in self.pooled],
            self.row_order.to(device, non_blocking=True),
            self.last.to(device, non_blocking=True),
            self.ends.to(device, non_blocking=True),
            self.longest,
        )


def _group_ends(lengths: np.ndarray) -> list[int]:
    """Where rows of rising `lengths` are cut into groups."""
    ends: list[int] = []
    first = 0
    while True:
        end = int(np.searchsorted(lengths, MOST_PADDING * lengths[first], side="right"))
        if end == len(lengths):
            return ends
        ends.append(end)
        first = end
