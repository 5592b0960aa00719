"""Finds texts that are almost the same: MinHash of character trigrams (Broder, 1997), with bands for locality-sensitive hashing.

Two texts have the same smallest hash of their trigrams with a probability of their Jaccard similarity. A signature has `HASHES` such
values, of one byte each (Li and König, 2010), in bands. Only texts with an equal band are compared (Leskovec, Rajaraman and Ullman, Mining
of Massive Datasets, chapter 3), first by their signatures and then by all their trigrams. So a text takes `HASHES` bytes and a few numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelnest.records.splits import normalised

HASHES = 96
RECALL = 0.98
"""Share of the pairs with just the smallest similarity that have an equal band. Of more similar pairs, more have one."""
ESTIMATE_MARGIN = 0.15
"""Almost four standard deviations of the similarity that signatures estimate."""
LARGEST_GROUP = 20
"""Texts with an equal band of which all pairs are compared. In larger groups each is compared with the next so many."""
MISSES = 8
"""Comparisons without success after which a text is compared only with texts that had fewer: those of a template are all alike, but not
enough so, and would all be compared with each other."""
BLOCK = 2000
"""Texts whose trigrams are in memory at once: they fit into a processor's cache."""
KEY_BYTES = 8
MIX = np.array([0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x2C1B3C6D, 0x7FEB352D, 0x846CA68B], np.uint32)
SHIFT = np.uint32(16)
MULTIPLIERS = np.random.default_rng(0).integers(0, 2**31, HASHES, dtype=np.uint32) * 2 + 1

_Rows = NDArray[np.int64]


@dataclass(frozen=True)
class NearDuplicates:
    """The near duplicates of some texts. Texts that are `normalised` to the same are no near duplicates, but equal."""

    is_first: NDArray[np.bool_]
    """Whether a text is the first of its split that is `normalised` to this."""
    within: NDArray[np.bool_]
    """Of the first ones, whether a near duplicate is in the same split."""
    of_train: _Rows
    """For each text of another split, the number of a near duplicate in the train split; -1 if there is none."""


def near_duplicate_texts(texts: Sequence[str], splits: Sequence[str], least: float) -> NearDuplicates:
    """Finds the texts whose sets of trigrams, after `normalised`, have a Jaccard similarity of at least `least`."""
    hashes = np.fromiter((hash(normalised(text)) for text in texts), np.int64, len(texts))
    known = {split: number for number, split in enumerate(dict.fromkeys(splits))}
    split = np.fromiter((known[name] for name in splits), np.int64, len(texts))
    _, first_rows, inverse = np.unique(hashes ^ (split * 0x9E3779B97F4A7C1), return_index=True, return_inverse=True)
    rows = np.sort(first_rows)  # hashes of strings differ from process to process, so their order must not count
    within, of_train = np.zeros(len(rows), np.bool_), np.full(len(rows), -1)
    hashes, split, train = hashes[rows], split[rows], known.get("train", -1)
    signatures, misses = _signatures([texts[row] for row in rows]), np.zeros(len(rows), np.uint16)
    for first, second in _pairs_with_equal_band(signatures, _band_size(least)):
        # A pair whose texts are both known to have a near duplicate changes nothing.
        is_within = (split[first] == split[second]) & ~(within[first] & within[second])
        first, second = np.where(split[first] == train, second, first), np.where(split[first] == train, first, second)
        is_of_train = (split[second] == train) & (split[first] != train) & (of_train[first] < 0)
        is_promising = (misses[first] < MISSES) | (misses[second] < MISSES)
        at = np.flatnonzero((is_within | is_of_train) & is_promising & (hashes[first] != hashes[second]))
        at = at[_agreement(signatures, first[at], second[at]) >= least - ESTIMATE_MARGIN]
        is_near = _similarities(texts, rows[first[at]], rows[second[at]]) >= least
        for rows_of_pairs in (first, second):
            np.add.at(misses, rows_of_pairs[at[~is_near]], 1)
        at = at[is_near]
        within[first[at[is_within[at]]]] = within[second[at[is_within[at]]]] = True
        of_train[first[at[is_of_train[at]]]] = rows[second[at[is_of_train[at]]]]
    is_first = np.zeros(len(texts), np.bool_)
    is_first[rows] = True
    within_of_text = np.zeros(len(texts), np.bool_)
    within_of_text[rows] = within
    return NearDuplicates(is_first, within_of_text, of_train[np.searchsorted(rows, first_rows[inverse])])


def _band_size(least: float) -> int:
    """Returns the most hashes of a band with which bands find `RECALL` of the pairs with this similarity."""
    sizes = [size for size in range(1, KEY_BYTES + 1) if 1 - (1 - least**size) ** (HASHES // size) >= RECALL]
    return max(sizes)


def _trigrams(texts: Sequence[str]) -> tuple[NDArray[np.uint32], _Rows]:
    """Returns the hashes of the texts' trigrams, one text after another, and where each text starts.

    Two NUL characters surround each text, which contains none, so that its first and last characters are in three trigrams too.
    """
    padded = ["\0\0" + normalised(text) for text in texts]
    starts = np.cumsum([0, *map(len, padded[:-1])], dtype=np.int64)
    codes = np.frombuffer(("".join(padded) + "\0\0").encode("utf-32-le"), np.uint32)
    hashes = codes[:-2] * MIX[0]
    for following, multiplier in ((codes[1:-1], MIX[1]), (codes[2:], MIX[2])):
        hashes = (hashes ^ (hashes >> SHIFT)) * MIX[3] + following * multiplier
    for multiplier in MIX[4:]:
        hashes = (hashes ^ (hashes >> SHIFT)) * multiplier
    return hashes ^ (hashes >> SHIFT), starts


def _signatures(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Returns, for each text, a byte of the smallest hash of its trigrams under each of the hash functions, (texts, HASHES)."""
    signatures = np.empty((len(texts), HASHES), np.uint8)
    for start in range(0, len(texts), BLOCK):
        hashes, starts = _trigrams(texts[start : start + BLOCK])
        for column, multiplier in enumerate(MULTIPLIERS):
            signatures[start : start + BLOCK, column] = np.minimum.reduceat(hashes * multiplier, starts) >> 8 & 255
    return signatures


def _pairs_with_equal_band(signatures: NDArray[np.uint8], size: int) -> Iterator[tuple[_Rows, _Rows]]:
    """Yields pairs of rows whose hashes are equal in a band of `size`, as two arrays at a time."""
    for start in range(0, HASHES - size + 1, size):
        # The hashes after the band order the rows of a group, so that more similar ones are closer.
        columns = np.arange(start, start + KEY_BYTES) % HASHES
        keys = np.ascontiguousarray(signatures[:, columns]).view(">u8").reshape(-1).astype(np.uint64)
        by_key = np.argsort(keys)
        bands = keys[by_key] >> np.uint64(8 * (KEY_BYTES - size))
        at = np.arange(len(bands))
        for distance in range(1, LARGEST_GROUP):
            at = at[: np.searchsorted(at, len(bands) - distance)]
            at = at[bands[at] == bands[at + distance]]
            if not len(at):
                break
            for block in range(0, len(at), 1 << 16):
                some = at[block : block + (1 << 16)]
                yield by_key[some], by_key[some + distance]


def _agreement(signatures: NDArray[np.uint8], first: _Rows, second: _Rows) -> NDArray[np.float64]:
    """Returns the estimated similarity of each pair of rows."""
    agreement: NDArray[np.float64] = (signatures[first] == signatures[second]).mean(axis=1)
    return agreement


def _similarities(texts: Sequence[str], first: _Rows, second: _Rows) -> NDArray[np.float64]:
    """Returns the Jaccard similarity of each pair of texts."""
    blocks = [_similarities_of_block(texts, first[at : at + BLOCK], second[at : at + BLOCK]) for at in range(0, len(first), BLOCK)]
    return np.concatenate([*blocks, np.zeros(0)])


def _similarities_of_block(texts: Sequence[str], first: _Rows, second: _Rows) -> NDArray[np.float64]:
    # A number has the pair in its high half, then the hash of a trigram, and in its last bit the text of the pair.
    numbers = np.concatenate([_numbered_trigrams([texts[row] for row in rows]) | side for side, rows in ((0, first), (1, second))])
    numbers.sort()
    numbers = numbers[np.append(True, numbers[1:] != numbers[:-1])]
    pairs = numbers >> 32
    common = np.bincount(pairs[1:][numbers[1:] >> 1 == numbers[:-1] >> 1], minlength=len(first))
    similarities: NDArray[np.float64] = common / (np.bincount(pairs, minlength=len(first)) - common)
    return similarities


def _numbered_trigrams(texts: Sequence[str]) -> _Rows:
    """Returns the trigrams of each text, after the number of the text and with 0 in the last bit."""
    hashes, starts = _trigrams(texts)
    lengths = np.diff([*starts, len(hashes)])
    return np.repeat(np.arange(len(texts)) << 32, lengths) | (hashes & np.uint32(0xFFFFFFFE))
