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


def near_duplicates(looks: Sequence[str], most_bits: int) -> list[int]:
    """For each `VideoInfo.look`, the index of the first one that a chain of near duplicates connects with it.

    The hashes of near duplicates differ in at most `most_bits` bits, of which there must be fewer than bands.
    """
    if not looks:
        return []
    rows = np.frombuffer(bytes.fromhex("".join(looks)), np.uint8).reshape(len(looks), LOOK_BYTES)
    distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
    parents = np.arange(len(distinct))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    for first, second in _close(distinct, most_bits):
        parents[root(first)] = root(second)
    roots = np.array([root(number) for number in range(len(distinct))])[inverse.reshape(-1)]
    first_of: dict[int, int] = {}
    return [first_of.setdefault(int(number), index) for index, number in enumerate(roots)]


def _close(looks: NDArray[np.uint8], most_bits: int) -> set[tuple[int, int]]:
    """The pairs of near duplicates."""
    close: set[tuple[int, int]] = set()
    hashes, colours = np.ascontiguousarray(looks[:, :HASH_BYTES]), looks[:, HASH_BYTES:].astype(np.int16)
    for band in hashes.view(np.uint16).T:
        by_value = np.argsort(band, kind="stable")
        values = band[by_value]
        for distance in range(1, min(LARGEST_GROUP, len(values))):
            at = np.flatnonzero(values[distance:] == values[:-distance])
            if not len(at):
                break  # no group has more than `distance` members
            first, second = by_value[at], by_value[at + distance]
            bits = np.bitwise_count(hashes[first] ^ hashes[second]).sum(axis=1)
            is_close = (bits <= most_bits) & (np.abs(colours[first] - colours[second]).max(axis=1) <= COLOUR_LEVELS)
            close |= set(zip(first[is_close].tolist(), second[is_close].tolist(), strict=True))
    return close
