"""Search in signs: a shortlist by Hamming distance, ordered by the float query (see storage.py)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelnest.search.funnel import rescore
from reelnest.search.storage import Int8Vectors, sign_bits
from reelnest.search.topk import Ranking, query_blocks

WORD = 8
"""Bytes that are compared at once."""


class BinaryVectors:
    """The signs of the first `dim` numbers of a corpus, and beside them, if asked for, their int8 codes."""

    def __init__(self, vectors: Tensor, dim: int, codes: Int8Vectors | None = None) -> None:
        """`vectors` (vectors, at least dim); `codes` of the same vectors, at least as wide."""
        self.dim = dim
        self._words = _words(sign_bits(vectors, dim))
        self._codes = None if codes is None else codes.prefix(dim).contiguous()

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The floats that the shortlist is compared with, (rows, dim): codes, or 1 for each set bit and -1 for the others."""
        if self._codes is not None:
            return self._codes[rows]
        bits = np.unpackbits(self._words[rows.numpy()].view(np.uint8), axis=1, count=self.dim)
        return torch.from_numpy(bits).float().mul_(2).sub_(1)

    def topk(self, queries: Tensor, shortlist: int, k: int) -> Ranking:
        """The best `k` of the `shortlist` rows with the fewest differing signs; fewer where the shortlist is shorter.

        Equal distances, and equal scores, are ordered by row. Scores are cosines with what is kept. `queries` (queries, at least dim).
        """
        rows = self._nearest(sign_bits(queries, self.dim), min(shortlist, len(self)))
        return rescore(queries[:, : self.dim], self, torch.from_numpy(rows), k)

    def _nearest(self, query_bits: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
        """(queries, count), in no order."""
        queries, corpus = _words(query_bits), self._words.T.copy()  # (words, corpus): one word of all of them side by side
        nearest = np.empty((len(queries), count), dtype=np.int64)
        if not count:
            return nearest
        rows = np.arange(len(self))
        for block in query_blocks(len(queries), len(self)):
            distances = np.zeros((block.stop - block.start, len(self)), dtype=np.int64)
            for query_word, words in zip(queries[block].T, corpus, strict=True):
                distances += np.bitwise_count(query_word[:, None] ^ words)
            # Distance and row in one number: no two are equal, so it is settled which ones come in.
            distances *= len(self)
            distances += rows
            nearest[block] = np.partition(distances, count - 1, axis=1)[:, :count] % len(self)
        return nearest


def _words(bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(vectors, bytes) as (vectors, words): a last word that is not full ends in zeros."""
    padded = np.zeros((len(bits), -(-bits.shape[1] // WORD) * WORD), dtype=np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.uint64)
