"""Search over signs: Hamming distance gives a shortlist, which the float query reranks (see storage.py)."""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelnest.search.funnel import Rows, rescore
from reelnest.search.storage import sign_bits
from reelnest.search.topk import Ranking, query_blocks

WORD = 8
"""Bytes compared at once."""


class BinaryVectors:
    """The signs of `dim` numbers of each vector of a corpus, and optionally their int8 codes."""

    def __init__(self, bits: NDArray[np.uint8], dim: int, codes: Rows | None = None) -> None:
        """`bits` are `sign_bits`, (vectors, ⌈dim / 8⌉). `codes` are those of the same vectors, `dim` wide."""
        self.dim = dim
        self._words = _words(bits)
        self._codes = codes

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Returns the floats that rerank a shortlist, (rows, dim): the int8 codes, or else 1 for a set bit and -1 for an unset one."""
        if self._codes is not None:
            return self._codes[rows]
        bits = np.unpackbits(self._words[rows.numpy()].view(np.uint8), axis=1, count=self.dim)
        return torch.from_numpy(bits).float().mul_(2).sub_(1)

    @cached_property
    def _columns(self) -> NDArray[np.uint64]:
        """(words, corpus): the same word of all vectors is contiguous."""
        return self._words.T.copy()

    def topk(self, queries: Tensor, shortlist: int, k: int) -> Ranking:
        """Returns the best `k` of the `shortlist` rows with the fewest differing signs; all of them if the shortlist is shorter than `k`.

        Ties of distance and of score are ordered by row. Scores are cosines with the stored vectors. `queries` is (queries, at least dim).
        """
        rows = self._nearest(sign_bits(queries, self.dim), min(shortlist, len(self)))
        return rescore(queries[:, : self.dim], self, torch.from_numpy(rows), k)

    def _nearest(self, query_bits: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
        """Returns the nearest rows of each query, (queries, count), unordered."""
        queries, corpus = _words(query_bits), self._columns
        nearest = np.empty((len(queries), count), dtype=np.int64)
        if not count:
            return nearest
        rows = np.arange(len(self))
        for block in query_blocks(len(queries), len(self)):
            distances = np.zeros((block.stop - block.start, len(self)), dtype=np.int64)
            for query_word, words in zip(queries[block].T, corpus, strict=True):
                distances += np.bitwise_count(query_word[:, None] ^ words)
            # Distance and row in one number: no two are equal, so ties at the cut are broken by row.
            distances *= len(self)
            distances += rows
            nearest[block] = np.partition(distances, count - 1, axis=1)[:, :count] % len(self)
        return nearest


def _words(bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Packs (vectors, bytes) into (vectors, words). The last word is padded with zeros."""
    padded = np.zeros((len(bits), -(-bits.shape[1] // WORD) * WORD), dtype=np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.uint64)
