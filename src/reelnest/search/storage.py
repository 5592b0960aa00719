"""How the vectors of a corpus are stored: as floats, as 8-bit integers, or as signs.

The stored form of a vector begins with the stored form of each prefix, so a corpus is stored once for all dims.

- int8: one scale per dimension, from the largest absolute value in the corpus, because the spread differs between trained dimensions. The
  query stays float, so only the corpus loses precision. `quantize_embeddings` of sentence-transformers does the same with a sample's range
  (https://sbert.net/examples/applications/embedding-quantization). Here the range is symmetric, so that a dot product needs no offset.
- binary: the signs, packed into bits and compared by Hamming distance. The float query then reranks the shortlist by the signs, or by int8
  codes that are stored as well: Yamada et al. 2021, https://arxiv.org/abs/2106.00882.
"""

from collections.abc import Iterable
from typing import Self, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelnest.search.storage_types import BITS, STORAGE_TYPES

LARGEST_CODE = 127
SMALLEST_SCALE = 1e-12


class Int8Vectors:
    """Vectors as 8-bit codes. `vectors[rows]`, for a slice or a tensor of row numbers, gives float32."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self.codes = codes  # (vectors, width) int8
        self.scales = scales  # (width,) float32

    @classmethod
    def calibrated(cls, vectors: Tensor) -> Self:
        """Returns the codes of `vectors`, (vectors, width). The vectors are normalised first, and they determine the scales."""
        vectors = unit(vectors)
        scales = int8_scales([vectors], vectors.shape[1])
        return cls(int8_codes(vectors, scales), scales)

    def prefix(self, dim: int) -> "Int8Vectors":
        """Returns the codes of the first `dim` numbers: a view."""
        return Int8Vectors(self.codes[:, :dim], self.scales[:dim])

    def contiguous(self) -> "Int8Vectors":
        """Returns a copy in contiguous memory, as an index of this width would have it."""
        return Int8Vectors(self.codes.contiguous(), self.scales)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self.codes[rows].float().mul_(self.scales)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def shape(self) -> torch.Size:
        """(vectors, width)."""
        return self.codes.shape


def int8_scales(blocks: Iterable[Tensor], width: int) -> Tensor:
    """Returns the scale of each dimension, (width,), for the unit vectors in `blocks`."""
    largest = None
    for block in blocks:
        if len(block):
            of_block = block.abs().amax(dim=0)
            largest = of_block if largest is None else torch.maximum(largest, of_block)
    return ((torch.ones(width) if largest is None else largest) / LARGEST_CODE).clamp_min(SMALLEST_SCALE)


def int8_codes(vectors: Tensor, scales: Tensor) -> Tensor:
    """Returns the codes of unit vectors, (vectors, width) int8."""
    return (vectors / scales).round_().to(torch.int8)


class SelectedRows:
    """Some rows of a corpus as a corpus of their own, such as the videos that a filter selects. They are copied only when they are read."""

    def __init__(self, corpus: "Searched", rows: Tensor) -> None:
        self.corpus = corpus
        self.rows = rows  # (selected,) int64, rising

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self.corpus[self.numbers(rows)]

    def numbers(self, rows: slice | Tensor) -> slice | Tensor:
        """Returns the rows of the corpus that `rows` stand for: a slice where they are adjacent, because a slice is not copied."""
        numbers = self.rows[rows]
        if isinstance(rows, slice) and len(numbers) and int(numbers[-1]) - int(numbers[0]) + 1 == len(numbers):
            return slice(int(numbers[0]), int(numbers[-1]) + 1)
        return numbers

    def prefix(self, dim: int) -> "SelectedRows":
        """Returns the same rows of the first `dim` numbers."""
        return SelectedRows(prefix(self.corpus, dim), self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """(selected, width)."""
        return torch.Size((len(self.rows), self.corpus.shape[1]))


Corpus: TypeAlias = Tensor | Int8Vectors
"""Stored vectors that can be searched by cosine: `corpus[rows]` gives floats."""
Searched: TypeAlias = Corpus | SelectedRows


def stored(vectors: Tensor, storage: str) -> Corpus:
    """Converts `vectors`, (vectors, width), to a storage type that is searched by cosine. Raises ValueError for signs, which are not."""
    store = STORAGE_TYPES[storage].store
    if store is None:
        raise ValueError(f"{storage} is searched by Hamming distance, see search/binary.py")
    return store(vectors)


@overload
def prefix(corpus: Corpus, dim: int) -> Corpus: ...
@overload
def prefix(corpus: Searched, dim: int) -> Searched: ...
def prefix(corpus: Searched, dim: int) -> Searched:
    """Returns the first `dim` numbers of each vector: a view."""
    return corpus[:, :dim] if isinstance(corpus, Tensor) else corpus.prefix(dim)


def read(corpus: Searched, rows: slice | Tensor, columns: slice, buffer: Tensor) -> Tensor:
    """Returns some columns of some rows as float32: a view of vectors that are stored so, else converted into `buffer`."""
    if isinstance(corpus, SelectedRows):
        return read(corpus.corpus, corpus.numbers(rows), columns, buffer)
    stored_numbers = (corpus.codes if isinstance(corpus, Int8Vectors) else corpus)[:, columns][rows]
    if stored_numbers.dtype == torch.float32:
        return stored_numbers
    floats = buffer[: stored_numbers.numel()].view(stored_numbers.shape)
    floats.copy_(stored_numbers)
    return floats.mul_(corpus.scales[columns]) if isinstance(corpus, Int8Vectors) else floats


def unit(vectors: Tensor) -> Tensor:
    """Returns the vectors at unit length. A zero vector stays zero."""
    vectors = vectors.float()
    # Divides by the largest number first, so that no square overflows or underflows.
    vectors = vectors / vectors.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) if vectors.shape[1] else vectors
    return torch.nn.functional.normalize(vectors, dim=1)


def sign_bits(vectors: Tensor, dim: int) -> NDArray[np.uint8]:
    """Returns the signs of the first `dim` numbers, (vectors, ⌈dim / 8⌉).

    A bit is set where the number is above 0; bits beyond `dim` are 0.
    """
    return np.packbits(vectors[:, :dim].cpu().numpy() > 0, axis=1)


def prefix_bits(bits: NDArray[np.uint8], dim: int) -> NDArray[np.uint8]:
    """Returns the `sign_bits` of the first `dim` numbers, from those of at least as many."""
    cut = bits[:, : -(-dim // BITS)]
    if dim % BITS:
        cut = cut.copy()
        cut[:, -1] &= 0xFF << (BITS - dim % BITS) & 0xFF
    return cut
