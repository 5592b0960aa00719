"""How the vectors of a corpus are kept: as floats, as 8-bit whole numbers, or as signs.

Whatever is kept of the longest prefix begins with what is kept of a shorter one, so a corpus is stored once for all dims.

- int8: one scale a dimension, from the largest number that the corpus has there, since the spread of trained dimensions differs. The
  query stays float: only the corpus loses. As `quantize_embeddings` of sentence-transformers, which calibrates each dimension on a
  sample's range (https://sbert.net/examples/applications/embedding-quantization), but symmetric, so that a dot product needs no offset.
- binary: the signs, packed into bits and compared by Hamming distance; the best of a shortlist are then ordered by the float query against
  the signs, or against int8 codes that are kept beside them: Yamada et al. 2021, https://arxiv.org/abs/2106.00882.
"""

from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelnest.search.storage_types import STORAGE_TYPES

LARGEST_CODE = 127
SMALLEST_SCALE = 1e-12


class Int8Vectors:
    """Vectors as 8-bit codes. What is read out of it is float32: `vectors[rows]` for a slice or a tensor of row numbers."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self.codes = codes  # (vectors, width) int8
        self.scales = scales  # (width,) float32

    @classmethod
    def calibrated(cls, vectors: Tensor) -> Self:
        """The codes of `vectors`, (vectors, width) of any length: they are brought to unit length first, and set the scales."""
        vectors = unit(vectors)
        largest = vectors.abs().amax(dim=0) if len(vectors) else vectors.new_ones(vectors.shape[1])
        scales = (largest / LARGEST_CODE).clamp_min(SMALLEST_SCALE)
        return cls((vectors / scales).round_().to(torch.int8), scales)

    def prefix(self, dim: int) -> "Int8Vectors":
        """What is kept of the first `dim` numbers: a view."""
        return Int8Vectors(self.codes[:, :dim], self.scales[:dim])

    def contiguous(self) -> "Int8Vectors":
        """The same vectors, those of a prefix side by side, as an index of this width would hold them."""
        return Int8Vectors(self.codes.contiguous(), self.scales)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self.codes[rows].float().mul_(self.scales)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def shape(self) -> torch.Size:
        """(vectors, width)."""
        return self.codes.shape


Corpus: TypeAlias = Tensor | Int8Vectors
"""What can be searched by cosine: `corpus[rows]` gives floats."""


def stored(vectors: Tensor, storage: str) -> Corpus:
    """`vectors` (vectors, width) as a storage type stores them that is searched by cosine. Raises ValueError for signs, which are not."""
    store = STORAGE_TYPES[storage].store
    if store is None:
        raise ValueError(f"{storage} is searched by Hamming distance, see search/binary.py")
    return store(vectors)


def prefix(corpus: Corpus, dim: int) -> Corpus:
    """The first `dim` numbers of each vector: a view."""
    return corpus.prefix(dim) if isinstance(corpus, Int8Vectors) else corpus[:, :dim]


def unit(vectors: Tensor) -> Tensor:
    """At unit length; a zero vector stays one."""
    vectors = vectors.float()
    # By the largest number first, so that no square overflows or vanishes.
    vectors = vectors / vectors.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) if vectors.shape[1] else vectors
    return torch.nn.functional.normalize(vectors, dim=1)


def sign_bits(vectors: Tensor, dim: int) -> NDArray[np.uint8]:
    """The signs of the first `dim` numbers, (vectors, ⌈dim / 8⌉): a bit is set where the number is above 0. Bits beyond `dim` are 0."""
    return np.packbits(vectors[:, :dim].cpu().numpy() > 0, axis=1)
