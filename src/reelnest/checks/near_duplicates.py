"""Finds videos that look almost the same, by their perceptual hashes and colours (`video/files/appearance.py`).

If two hashes differ in fewer bits than they have bands, they are equal in at least one band. So only videos with an equal band are
compared.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reelnest.video.files.appearance import HASH_BYTES, LOOK_BYTES

COLOUR_LEVELS = 24
"""The largest difference of the mean colours of a part of two near duplicates, 0 to 255."""
LARGEST_GROUP = 500
"""Videos with an equal band of which all pairs are compared. In larger groups each is compared with the next so many."""


def near_duplicates(looks: Sequence[str], most_bits: int) -> NDArray[np.int64]:
    """Returns a number for each `VideoInfo.look`: equal if a chain of near duplicates connects two, (looks,).

    The hashes of near duplicates differ in at most `most_bits` bits, of which there must be fewer than bands.
    """
    if not looks:
        return np.zeros(0, np.int64)
    rows = np.frombuffer(bytes.fromhex("".join(looks)), np.uint8).reshape(len(looks), LOOK_BYTES)
    distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
    group = np.arange(len(distinct))
    hashes, colours = np.ascontiguousarray(distinct[:, :HASH_BYTES]), distinct[:, HASH_BYTES:].astype(np.int16)
    for band in hashes.view(np.uint16).T:
        by_value = np.argsort(band, kind="stable")
        values = band[by_value]
        for distance in range(1, min(LARGEST_GROUP, len(values))):
            at = np.flatnonzero(values[distance:] == values[:-distance])
            if not len(at):
                break  # no group has more than `distance` members
            first, second = by_value[at], by_value[at + distance]
            is_apart = group[first] != group[second]  # of many similar videos, most are connected by then
            first, second = first[is_apart], second[is_apart]
            bits = np.bitwise_count(hashes[first] ^ hashes[second]).sum(axis=1)
            is_close = (bits <= most_bits) & (np.abs(colours[first] - colours[second]).max(axis=1) <= COLOUR_LEVELS)
            if is_close.any():
                group = _joined(group, first[is_close], second[is_close])
    return group[inverse.reshape(-1)]


def _joined(group: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the groups after those of each `first` and `second` become one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    joins = coo_array((np.ones(len(first)), (group[first], group[second])), (len(group), len(group)))
    joined: NDArray[np.int64] = connected_components(joins, directed=False)[1][group]
    return joined
