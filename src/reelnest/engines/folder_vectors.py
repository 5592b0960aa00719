"""The vectors of a folder's index in the storage types that an evaluation measures, and how each is searched.

vectors.npy  (videos, width) float32, float16 or int8 codes
scales.npy   (width,) float32: what a code of 1 stands for in each dimension
signs.npy    (videos, ⌈width / 8⌉) uint8: a bit for each number
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelnest.search.binary import BinaryVectors
from reelnest.search.funnel import funnel_topk, rescore
from reelnest.search.storage import Int8Vectors, Searched, SelectedRows, int8_codes, int8_scales, prefix, prefix_bits, sign_bits
from reelnest.search.topk import Ranking, prefix_topk

VECTORS_FILE, SCALES_FILE, SIGNS_FILE, FLOATS_FILE = "vectors.npy", "scales.npy", "signs.npy", "floats.npy"
FLOATS = ("float32", "float16")
COMPACT = {"int8": (False, True), "binary": (True, False), "binary_int8": (True, True)}
"""Whether a storage type has signs, and codes."""
BLOCK_ROWS = 10_000
MOST_DIMS = 8
"""Dims of which norms (4 bytes a vector) or prefixes of signs are kept."""


def new_vectors(folder: Path, storage: str, shape: tuple[int, int]) -> np.memmap:
    """Returns a file for the vectors of a new index. `finish` makes the compact files from it."""
    name, number_type = (VECTORS_FILE, storage) if storage in FLOATS else (FLOATS_FILE, "float32")
    return np.lib.format.open_memmap(folder / name, "w+", np.dtype(number_type), shape)


def finish(folder: Path, storage: str, vectors: np.memmap) -> None:
    """Writes the vectors in their storage type, block by block, with the arithmetic of the evaluation."""
    vectors.flush()
    if storage in FLOATS:
        return
    has_signs, has_codes = COMPACT[storage]
    count, width = vectors.shape
    if has_signs:
        signs = np.lib.format.open_memmap(folder / SIGNS_FILE, "w+", np.uint8, (count, -(-width // 8)))
        for rows, block in _blocks(vectors):
            signs[rows] = sign_bits(block, width)
        signs.flush()
    if has_codes:
        scales = int8_scales((block for _, block in _blocks(vectors)), width)
        np.save(folder / SCALES_FILE, scales.numpy())
        codes = np.lib.format.open_memmap(folder / VECTORS_FILE, "w+", np.int8, (count, width))
        for rows, block in _blocks(vectors):
            codes[rows] = int8_codes(block, scales).numpy()
        codes.flush()
    (folder / FLOATS_FILE).unlink()


def shapes(storage: str, videos: int, width: int) -> list[tuple[int, int]]:
    """Returns the shapes that the files of an index have, see `ByCosine.shapes`."""
    has_signs, has_codes = COMPACT.get(storage, (False, True))
    return [(videos, width)] * has_codes + [(videos, -(-width // 8))] * has_signs


class ByCosine:
    """Memory-mapped floats or codes."""

    def __init__(self, corpus: Tensor | Int8Vectors, width: int) -> None:
        self.corpus, self.width = corpus, width
        self._inverse_norms: dict[int, Tensor] = {}

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the files."""
        return [tuple(self.corpus.shape)]

    def search(self, queries: Tensor, k: int, dim: int, shortlist: int | None, selected: Tensor | None) -> tuple[Ranking, tuple[int, ...]]:
        """Returns the best rows for `queries`, (queries, width), and the dims that were compared. See `Engine.search`."""
        corpus: Searched = self.corpus
        norms = self._inverse_norms
        if selected is not None:
            corpus, norms = SelectedRows(self.corpus, selected), {dim: norms[dim][selected]} if dim in norms else {}
        elif dim not in norms and len(norms) == MOST_DIMS:
            del norms[next(iter(norms))]
        if shortlist is None or dim == self.width:
            rankings = prefix_topk(queries[:, :dim], prefix(corpus, dim), [dim], k, inverse_norms=norms)
            return _numbered(rankings[dim], selected), (dim,)
        return _numbered(funnel_topk(queries, corpus, [dim, self.width], [max(shortlist, k)], k, norms), selected), (dim, self.width)

    def rescore(self, queries: Tensor, rows: Tensor, k: int) -> Ranking:
        """Returns the best of a shortlist at the full width."""
        return rescore(queries, self.corpus, rows, k)


class BySigns:
    """Memory-mapped signs, with the codes that rerank their shortlists or alone."""

    def __init__(self, signs: NDArray[np.uint8], codes: Int8Vectors | None) -> None:
        self._signs, self._codes = signs, codes
        self._all = lru_cache(MOST_DIMS)(self._at)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the files."""
        return [tuple(each.shape) for each in (self._codes, self._signs) if each is not None]

    def search(self, queries: Tensor, k: int, dim: int, shortlist: int | None, selected: Tensor | None) -> tuple[Ranking, tuple[int, ...]]:
        """Searches like `ByCosine.search`."""
        signs = self._all(dim) if selected is None else self._at(dim, selected)
        return _numbered(signs.topk(queries, len(signs) if shortlist is None else max(shortlist, k), k), selected), (dim,)

    def _at(self, dim: int, selected: Tensor | None = None) -> BinaryVectors:
        if selected is None:
            return BinaryVectors(prefix_bits(self._signs, dim), dim, None if self._codes is None else self._codes.prefix(dim))
        codes = None if self._codes is None else SelectedRows(self._codes.prefix(dim), selected)
        return BinaryVectors(prefix_bits(self._signs[selected.numpy()], dim), dim, codes)


def open_vectors(folder: Path, storage: str, width: int) -> ByCosine | BySigns:
    """Opens the vectors of an index. Raises OSError and ValueError for files that are missing or damaged."""
    if storage in FLOATS:
        return ByCosine(torch.from_numpy(_open(folder / VECTORS_FILE)), width)
    has_signs, has_codes = COMPACT[storage]
    codes = None
    if has_codes:
        scales = np.load(folder / SCALES_FILE, allow_pickle=False)
        if scales.shape != (width,):
            raise ValueError(f"{SCALES_FILE} has the shape {scales.shape}, expected ({width},)")
        codes = Int8Vectors(torch.from_numpy(_open(folder / VECTORS_FILE)), torch.from_numpy(scales))
    if not has_signs and codes is not None:
        return ByCosine(codes, width)
    return BySigns(_open(folder / SIGNS_FILE), codes)


def _numbered(ranking: Ranking, selected: Tensor | None) -> Ranking:
    return ranking if selected is None else Ranking(selected[ranking.indices], ranking.scores)


def _open(file: Path) -> NDArray[Any]:
    # Copy on write, because torch warns about arrays that are read-only.
    return np.load(file, mmap_mode="c", allow_pickle=False)


def _blocks(vectors: NDArray[np.float32]) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(vectors), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        yield rows, torch.from_numpy(np.array(vectors[rows]))
