"""What an engine is: it holds the versions of one index, searches the active one, and replaces it by another in one step."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from reelnest.errors import QueryError
from reelnest.implementations import Implementations
from reelnest.records.formats import BadRecord, Video
from reelnest.settings import Section

IndexStorage = Literal["float32", "float16"]
Vector = NDArray[np.floating]


class Manifest(Section):
    """What an index was made of."""

    format_version: int
    model: str
    """What opens the model again: its folder, relative to the index's, or `models:/name/version`."""
    model_hash: str
    """Of its files: vectors of another model cannot be compared with these."""
    base: str
    """What it was trained from, for people to read."""
    dims: tuple[int, ...]
    """The prefixes that the model was trained for; the last is the width of the vectors."""
    data: str
    """The corpus's folder, relative to the index's."""
    data_hash: str
    """Of the ids, bytes and texts of all videos in the index."""
    storage: IndexStorage
    graph_dim: int | None
    """The prefix that has an approximate index, from which shortlists are taken; None without one."""
    videos: int
    skipped: int

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.dims[-1]

    def check_dim(self, dim: int | None) -> int:
        """`dim`, or the full width where it is left out. Raises QueryError for one that the vectors do not have."""
        dim = self.width if dim is None else dim
        if not 1 <= dim <= self.width:
            trained = ", ".join(map(str, self.dims))
            raise QueryError(
                f"dim {dim}: this index has dims 1 to {self.width}. The model was trained for {trained}; other dims have lower quality."
            )
        return dim


@dataclass(frozen=True, eq=False)
class Item:
    """A video with its vector, as it enters an index."""

    video: Video
    key: str
    """Of the video's bytes, the sampling settings and the text that was encoded with them: the same key, the same vector."""
    vector: Vector
    """(width,), finite, of unit length."""


@dataclass(frozen=True, eq=False)
class Hits:
    """What a search gave, best first."""

    ids: Sequence[str]
    scores: Sequence[float]
    """Cosines."""
    dims: tuple[int, ...]
    """One, or those of a shortlist and of the order, of which the last gave the scores."""


class Engine(Protocol):
    """One index in one place: a folder, or a table or collection of a server.

    A new version is created beside the active one, filled, built and activated; searches see either the old one or the new one, whole. Only
    one process at a time writes (the caller holds a lock), any number of processes and threads search.

    An engine whose server has another measure converts it: scores are cosines, larger is better (pgvector's `<#>` is the negative inner
    product and `<=>` a distance; Qdrant and Milvus give similarities). Ties are ordered by the order in which videos were given. A server
    that takes a shortlist and its order in one request (pgvector in one statement, Qdrant by `prefetch`) may do so; another (Milvus) makes
    two requests.
    """

    def create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None:
        """Begins a version and removes those that killed runs left unfinished.

        Args:
            version: A name that no other version has: lowercase hexadecimal digits.
            manifest: What the index is made of; `manifest.videos` items will follow.
            skipped: The videos that the index lacks, for people to read.

        Raises:
            DataError: where the place cannot be written.
        """

    def upsert(self, version: str, items: Sequence[Item]) -> None:
        """Adds items to an unfinished version, in the order of their ids over all calls."""

    def build(self, version: str) -> None:
        """Finishes a version: builds the approximate index over `manifest.graph_dim`, and makes all durable."""

    def activate(self, version: str) -> None:
        """Makes a built version the one that is searched, in one step, and removes the one before."""

    def drop(self, version: str) -> None:
        """Removes a version that is not active; does nothing where there is none."""

    @property
    def manifest(self) -> Manifest:
        """Of the active version. Raises DataError where there is none, or where it is damaged."""

    def search(self, query: NDArray[np.float32], k: int, *, dim: int, shortlist: int | None = None) -> Hits:
        """The best `k` videos of the active version for one query.

        Args:
            query: (width,), of any length: cosines do not depend on it.
            k: At most so many.
            dim: The first so many numbers are compared; each prefix is normalised on its own. Any from 1 to the width.
            shortlist: None: the search is exact and the scores are of `dim`. Else so many videos (at least `k`) are chosen by `dim`, by the
                approximate index where it is over this dim, and ordered by the full width.

        Raises:
            ModelError: where a score is NaN.
            DataError: where there is no active version.
        """

    def get(self, ids: Sequence[str]) -> list[Video]:
        """Videos of the active version, in the order of `ids`. Raises QueryError for an id that it does not have."""

    def vectors(self, keys: Collection[str]) -> Mapping[str, Vector]:
        """The stored vectors of the active version for those of `keys` that it has, so that they need not be encoded again."""

    def close(self) -> None:
        """Gives back connections and files."""


ENGINES: Implementations[Callable[[str], Engine]] = Implementations("search engine", "reelnest.engines")
"""By name, what opens an engine at a location: a folder's path, or a server's address with the name of the index.

Opening connects to nothing, since the index need not exist yet. Register a class with `@ENGINES.register("name")`.
"""
