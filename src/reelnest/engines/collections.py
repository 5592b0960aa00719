"""What the engines of vector databases share: a collection for each version of an index, and an alias that names the active one.

A subclass stores and queries a collection. This class numbers the rows, follows the alias, orders ties and finds the videos of results.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelnest.engines.engine import Hits, Item, Manifest, Vector
from reelnest.engines.stored import BLOCK_VECTORS, StoredVectors
from reelnest.errors import ConfigError, DataError, ModelError, NoIndex, QueryError
from reelnest.records.formats import BadRecord, Video
from reelnest.search.filters import NUMBER, Filter, number_of

NAME = re.compile(r"[a-z_][a-z0-9_]{0,40}")
"""Names of indexes. PostgreSQL cuts names of over 63 bytes, and a version adds 17."""
MOST_SKIPPED = 1000
"""Videos left out that a server's index lists."""
TIES = 16
"""Rows beyond the results that a query asks for, to see whether the last result ties with rows that it leaves out."""
SAME_SCORE = 2e-7
"""Cosines that differ by less are ties: equal vectors may differ by the last digit of a float."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a collection that a query returns."""

    score: float
    """Cosine."""
    number: int
    """The row's place in the order of insertion."""
    video_id: str


@dataclass(frozen=True, slots=True)
class Request:
    """One query of a collection."""

    vector: NDArray[np.float32]
    """(width,)."""
    dim: int
    """The prefix that is compared first, or alone."""
    size: int
    """The maximum number of rows."""
    shortlist: int | None
    """The number of rows that are selected at `dim` and reranked at the full width, or for signs at `dim`. None: an exact search."""
    condition: Filter | None


class CollectionsEngine(ABC):
    """An index in a vector database. Threads may search it concurrently.

    An opened index follows the active version as long as the versions have the same model. The version before the active one stays, so that
    a search that has begun finds its rows.
    """

    place: str
    """The location without credentials, for messages."""

    def __init__(self) -> None:
        self._unfinished: dict[str, Manifest] = {}
        self._written = 0
        self._opened: tuple[str, Manifest] | None = None

    def create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None:
        """See `Engine.create`."""
        with self._errors():
            for orphan in set(self._versions()) - set(self._aliased()):
                self._drop(orphan)
            self._create(version, manifest, skipped)
        self._unfinished[version] = manifest
        self._written = 0

    def upsert(self, version: str, items: Sequence[Item]) -> None:
        """See `Engine.upsert`."""
        with self._errors():
            self._insert(version, self._unfinished[version], self._written, items)
        self._written += len(items)

    def build(self, version: str) -> None:
        """See `Engine.build`."""
        with self._errors():
            self._build(version, self._unfinished[version])

    def activate(self, version: str) -> None:
        """See `Engine.activate`. Keeps the version before, for searches that have begun."""
        with self._errors():
            before = next(iter(self._aliased()), None)
            self._alias(version, before)
            self._unfinished.pop(version)
            for old in set(self._versions()) - {version, before}:
                self._drop(old)
        self._opened = None

    def drop(self, version: str) -> None:
        """See `Engine.drop`."""
        if self._unfinished.pop(version, None) is not None:
            with self._errors():
                self._drop(version)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the opened version. Raises NoIndex if there is none, DataError without a connection."""
        return self._open()[1]

    def search(
        self, query: NDArray[np.float32], k: int, *, dim: int, shortlist: int | None = None, condition: Filter | None = None
    ) -> Hits:
        """See `Engine.search`. Raises QueryError for a dim that is not stored: only the prefixes that the model was trained for are."""
        version, manifest = self._follow()
        stored, vector = self.stored_dims(manifest), np.atleast_2d(query)[0].astype(np.float32)
        if dim not in stored:
            raise QueryError(f"dim {dim}: {self.place} stores the dims {', '.join(map(str, stored))}. Search with one of them.")
        if not np.isfinite(vector).all() or not vector[:dim].any():
            raise ModelError(f"{self.place}: a score is NaN. The query's vector is zero or not finite at dim {dim}.")
        if not manifest.has_signs and dim == manifest.width:
            shortlist = None
        if not manifest.videos or k < 1:
            return Hits([], [], (dim,))
        reranks = shortlist is not None and not manifest.has_signs
        candidates = None if shortlist is None else max(shortlist, k)
        most = min(manifest.videos, candidates) if reranks and candidates is not None else manifest.videos
        size = min(k + TIES, most)
        with self._errors():
            while True:
                rows = _best_first(self._rows(version, manifest, Request(vector, dim, size, candidates, condition)))
                if len(rows) < size or size == most or rows[-1].score < rows[k - 1].score - SAME_SCORE:
                    break
                size = min(4 * size, most)
        return Hits([row.video_id for row in rows[:k]], [row.score for row in rows[:k]], (dim, manifest.width) if reranks else (dim,))

    def get(self, ids: Sequence[str]) -> list[Video]:
        """See `Engine.get`. Finds also the videos of the version before, with which a search may have begun."""
        version, _ = self._follow()
        with self._errors():
            videos = self._videos(version, ids)
            if len(videos) < len(set(ids)):
                for each in self._aliased():
                    videos = self._videos(each, ids) | videos
        if any(video_id not in videos for video_id in ids):
            raise QueryError("The index has no video of this id.")
        return [videos[video_id] for video_id in ids]

    def vectors(self, keys: Collection[str]) -> Mapping[str, Vector]:
        """Returns a mapping that reads vectors in blocks when they are looked up; see `Engine.vectors`."""
        version, manifest = self._open()
        listed = list(keys)

        def read(block: Sequence[str]) -> dict[str, Vector]:
            with self._errors():
                return self._vectors(version, manifest, block)

        with self._errors():
            stored = {
                key: number
                for start in range(0, len(listed), BLOCK_VECTORS)
                for key, number in self._keys(version, listed[start : start + BLOCK_VECTORS]).items()
            }
        return StoredVectors(sorted(stored, key=stored.__getitem__), read)

    def stored_dims(self, manifest: Manifest) -> tuple[int, ...]:
        """Returns the prefixes that are stored: all that the model was trained for."""
        return manifest.dims

    def _open(self) -> tuple[str, Manifest]:
        if self._opened is None:
            with self._errors():
                version = next(iter(self._aliased()), None)
                if version is None:
                    raise NoIndex(f"{self.place}: there is no index. Run `reelnest index --to ADDRESS` to make one.")
                self._opened = version, self._manifest(version)
        return self._opened

    def _follow(self) -> tuple[str, Manifest]:
        """Returns the active version if it has the opened one's model, else the opened one. Raises DataError if that one is gone."""
        opened, manifest = self._open()
        with self._errors():
            aliased = self._aliased()
            if aliased and aliased[0] != opened:
                active = self._manifest(aliased[0])
                if active.model_hash == manifest.model_hash:
                    self._opened = aliased[0], active
                    return self._opened
                if opened not in aliased:
                    raise DataError(f"{self.place}: the index was made again with another model. Open it again.")
        return opened, manifest

    def disk_bytes(self) -> int | None:
        """See `Engine.disk_bytes`. A server does not say."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Closes connections and files."""

    @abstractmethod
    def _errors(self) -> AbstractContextManager[None]:
        """Turns the errors of the database into DataErrors that name the place."""

    @abstractmethod
    def _aliased(self) -> list[str]:
        """Returns the active version, and the one before if there is one; empty without an index."""

    @abstractmethod
    def _alias(self, version: str, before: str | None) -> None:
        """Makes `version` the active one."""

    @abstractmethod
    def _versions(self) -> list[str]:
        """Returns all versions that exist, also unfinished ones."""

    @abstractmethod
    def _manifest(self, version: str) -> Manifest: ...

    @abstractmethod
    def _create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None: ...

    @abstractmethod
    def _insert(self, version: str, manifest: Manifest, start: int, items: Sequence[Item]) -> None:
        """Adds rows, which are numbered from `start` on. Returns when they are durable or `_build` can make them so."""

    @abstractmethod
    def _build(self, version: str, manifest: Manifest) -> None: ...

    @abstractmethod
    def _drop(self, version: str) -> None: ...

    @abstractmethod
    def _rows(self, version: str, manifest: Manifest, request: Request) -> list[Row]:
        """Returns the best rows, in any order among equal scores."""

    @abstractmethod
    def _videos(self, version: str, ids: Sequence[str]) -> dict[str, Video]:
        """Returns those of the videos that the version has."""

    @abstractmethod
    def _keys(self, version: str, keys: Sequence[str]) -> dict[str, int]:
        """Returns the row numbers of those of at most BLOCK_VECTORS keys that the version has."""

    @abstractmethod
    def _vectors(self, version: str, manifest: Manifest, keys: Sequence[str]) -> dict[str, Vector]:
        """Returns the full vectors of at most BLOCK_VECTORS keys that the version has."""


def index_name(name: str, place: str) -> str:
    """Returns the name of an index, which becomes an alias. Raises ConfigError for one that is not plain."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{place}: an index's name, after #, consists of at most 41 of a-z, 0-9 and _, and begins with a letter.")
    return name


def texts_of(video: Video) -> dict[str, str]:
    """Returns what filters compare, by field; see `reelnest.search.filters`."""
    return {**video.tags, **video.fields, "video_id": video.video_id}


def numbers_of(video: Video) -> dict[str, float]:
    """Returns the texts that are numbers."""
    return {name: number_of(text) for name, text in texts_of(video).items() if NUMBER.fullmatch(text)}


def _best_first(rows: list[Row]) -> list[Row]:
    """Returns the rows by falling score; ties in the order of insertion."""
    rows.sort(key=lambda row: -row.score)
    group, groups = 0, []
    for row, above in zip(rows, rows[:1] + rows, strict=False):
        group += above.score - row.score > SAME_SCORE
        groups.append((group, row.number, row))
    return [row for _, _, row in sorted(groups, key=lambda each: each[:2])]
