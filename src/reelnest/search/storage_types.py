"""The storage types by name. Among equally good ones, the first is preferred. To add one, add a row to STORAGE_TYPES.

torch is imported only when a corpus is stored: the settings read the names here, also in processes that need no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from reelnest.search.storage import Corpus

BITS = 8


def _nothing(_dim: int) -> int:
    return 0


@dataclass(frozen=True)
class StorageType:
    """How an index stores a vector."""

    bytes_per_vector: Callable[[int], int]
    """Bytes of one vector, by dim."""
    store: "Callable[[Tensor], Corpus] | None"
    """Turns vectors (vectors, width) into a corpus that is searched by cosine. None for signs, which are searched by Hamming distance."""
    shared_bytes: Callable[[int], int] = _nothing
    """Bytes that all vectors of an index share, such as scales, by dim."""
    codes: str | None = None
    """For signs: the storage type that reranks the shortlist. None: the signs themselves rerank it."""


def _as_given(vectors: "Tensor") -> "Corpus":
    return vectors


def _halves(vectors: "Tensor") -> "Corpus":
    from reelnest.search.storage import unit

    return unit(vectors).half()


def _int8_codes(vectors: "Tensor") -> "Corpus":
    from reelnest.search.storage import Int8Vectors

    return Int8Vectors.calibrated(vectors)


def _sign_bytes(dim: int) -> int:
    return -(-dim // BITS)


STORAGE_TYPES: dict[str, StorageType] = {
    "float32": StorageType(lambda dim: 4 * dim, _as_given),
    "float16": StorageType(lambda dim: 2 * dim, _halves),
    "int8": StorageType(lambda dim: dim, _int8_codes, shared_bytes=lambda dim: 4 * dim),
    "binary": StorageType(_sign_bytes, None),
    "binary_int8": StorageType(lambda dim: _sign_bytes(dim) + dim, None, shared_bytes=lambda dim: 4 * dim, codes="int8"),
}


def storage_names() -> tuple[str, ...]:
    """Returns all names."""
    return tuple(STORAGE_TYPES)


def bytes_per_vector(dim: int, storage: str) -> int:
    """Returns bytes of one vector, without what all vectors share."""
    return STORAGE_TYPES[storage].bytes_per_vector(dim)


def index_bytes(vectors: int, dim: int, storage: str) -> int:
    """Returns bytes of the vectors of an index, without its ids and without the graph of an approximate index."""
    return vectors * bytes_per_vector(dim, storage) + STORAGE_TYPES[storage].shared_bytes(dim)
