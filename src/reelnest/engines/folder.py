"""The engine that needs no server: a folder of files (`folder_files.py`) that this process memory-maps and searches."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from reelnest.atomic_files import flush_folder, orphans_of, replace_folder, write_json
from reelnest.engines.engine import ENGINES, Hits, Item, Manifest, Vector, bytes_below
from reelnest.engines.folder_files import (
    MANIFEST_FILE,
    SEARCHED_SCHEMA,
    SKIPPED_FILE,
    TABLE_FILE,
    FolderGraph,
    check_replaceable,
    graph_label,
    read_keys,
    read_manifest,
    read_table,
    videos_of,
    videos_table,
    write_graph,
)
from reelnest.engines.folder_filter import TableFilter
from reelnest.engines.folder_vectors import COMPACT, FLOATS, ByCosine, BySigns, finish, new_vectors, open_vectors, shapes
from reelnest.errors import DataError, QueryError
from reelnest.records.formats import BadRecord, Video, write_quarantine
from reelnest.search.batching import Batched
from reelnest.search.filters import Filter
from reelnest.search.topk import Ranking


@dataclass(frozen=True, eq=False)
class _Unfinished:
    """A version that is being written."""

    manifest: Manifest
    vectors: np.memmap
    videos: list[Video] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Opened:
    """The active version."""

    manifest: Manifest
    vectors: ByCosine | BySigns
    table: pa.Table
    file: pq.ParquetFile
    """What the table was read from, open, because the folder may be replaced."""
    graph: FolderGraph | None

    @cached_property
    def filter(self) -> TableFilter:
        return TableFilter(self.table)

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        return self.table["video_id"]

    @cached_property
    def rows(self) -> dict[str, int]:
        return {video_id: row for row, video_id in enumerate(self.ids.to_pylist())}

    def hits(self, ranking: Ranking, dims: tuple[int, ...]) -> list[Hits]:
        """Returns the hits of each query."""
        ids = self.ids  # one at a time: for the few of a search, Arrow's `take` is slower
        return [
            Hits([ids[row].as_py() for row in rows], scores, dims)
            for rows, scores in zip(ranking.indices.tolist(), ranking.scores.tolist(), strict=True)
        ]


class _Form(NamedTuple):
    """What searches have in common that share a pass."""

    opened: _Opened
    k: int
    dim: int
    shortlist: int | None
    condition: Filter | None


class _Search(NamedTuple):
    vector: NDArray[np.float32]
    form: _Form


def _search(searches: Sequence[_Search]) -> list[Hits]:
    if len(searches) == 1:  # grouping and stacking would take a twentieth of a funnel's time
        return _search_alike(searches[0].vector[None], searches[0].form)
    hits: dict[int, Hits] = {}
    for form in dict.fromkeys(search.form for search in searches):
        numbers = [number for number, search in enumerate(searches) if search.form == form]
        hits |= zip(numbers, _search_alike(np.stack([searches[number].vector for number in numbers]), form), strict=True)
    return [hits[number] for number in range(len(searches))]


def _search_alike(queries: NDArray[np.float32], form: _Form) -> list[Hits]:
    """Returns the hits of queries, (queries, width), whose searches have the same form."""
    opened, k, dim, shortlist, condition = form
    graph, vectors, width = opened.graph, opened.vectors, opened.manifest.width
    if graph is None or shortlist is None or condition is not None or dim != opened.manifest.graph_dim or isinstance(vectors, BySigns):
        selected = None if condition is None else torch.from_numpy(opened.filter.rows(condition))
        return opened.hits(*vectors.search(torch.from_numpy(queries), k, dim, shortlist, selected))
    hits = []
    for query, rows in zip(queries, graph.rows(queries[:, :dim], max(shortlist, k)), strict=True):
        ranking = vectors.rescore(torch.from_numpy(query)[None], torch.from_numpy(rows)[None], k)
        hits += opened.hits(ranking, (dim, width))
    return hits


@ENGINES.register("folder")
class FolderEngine:
    """An index in a folder. Threads may search it concurrently. An opened index does not change when the folder is replaced."""

    storages = (*FLOATS, *COMPACT)

    def __init__(self, location: str) -> None:
        self.folder = Path(location)
        self._unfinished: dict[str, _Unfinished] = {}
        self._searches = Batched(_search, "search")

    def create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None:
        """Creates a folder beside the index's; see `Engine.create`. Raises ConfigError if the index would replace other files."""
        check_replaceable(self.folder)
        for orphan in orphans_of(self.folder):
            shutil.rmtree(orphan, ignore_errors=True)
        place = self._place(version)
        place.mkdir(parents=True)
        vectors = new_vectors(place, manifest.storage, (manifest.videos, manifest.width))
        write_quarantine(place / SKIPPED_FILE, skipped)
        self._unfinished[version] = _Unfinished(manifest, vectors)

    def upsert(self, version: str, items: Sequence[Item]) -> None:
        """See `Engine.upsert`."""
        unfinished = self._unfinished[version]
        for row, item in enumerate(items, start=len(unfinished.keys)):
            unfinished.vectors[row] = item.vector
        unfinished.videos.extend(item.video for item in items)
        unfinished.keys.extend(item.key for item in items)

    def build(self, version: str) -> None:
        """See `Engine.build`."""
        unfinished, place = self._unfinished.pop(version), self._place(version)
        if unfinished.manifest.graph_dim is not None:
            labels = np.array([graph_label(video.video_id, key) for video, key in zip(unfinished.videos, unfinished.keys, strict=True)])
            before = self.folder if self._has_similar_graph(unfinished.manifest) else None
            write_graph(place, unfinished.vectors, unfinished.manifest.graph_dim, labels.astype(np.uint64), before)
        finish(place, unfinished.manifest.storage, unfinished.vectors)
        pq.write_table(videos_table(unfinished.videos, unfinished.keys), place / TABLE_FILE, compression="zstd")
        write_json(place / MANIFEST_FILE, unfinished.manifest.model_dump(mode="json"))
        flush_folder(place)

    def activate(self, version: str) -> None:
        """See `Engine.activate`."""
        replace_folder(self._place(version), self.folder)
        self.__dict__.pop("_opened", None)

    def drop(self, version: str) -> None:
        """See `Engine.drop`."""
        self._unfinished.pop(version, None)
        shutil.rmtree(self._place(version), ignore_errors=True)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the opened folder. Raises DataError if it has no index, another format version, or damage."""
        return self._opened.manifest

    def search(
        self, query: NDArray[np.float32], k: int, *, dim: int, shortlist: int | None = None, condition: Filter | None = None
    ) -> Hits:
        """See `Engine.search`. With a filter, the shortlist is exact too. Concurrent searches share a pass over the vectors."""
        return self._searches.here(self._prepared(query, k, dim, shortlist, condition))

    async def search_async(
        self, query: NDArray[np.float32], k: int, *, dim: int, shortlist: int | None = None, condition: Filter | None = None
    ) -> Hits:
        """See `SearchesAsync.search_async`."""
        return await self._searches.result(self._prepared(query, k, dim, shortlist, condition))

    def get(self, ids: Sequence[str]) -> list[Video]:
        """See `Engine.get`."""
        if any(video_id not in self._opened.rows for video_id in ids):
            raise QueryError("The index has no video of this id.")
        return videos_of(self._opened.table, [self._opened.rows[video_id] for video_id in ids])

    def vectors(self, keys: Collection[str]) -> Mapping[str, Vector]:
        """Returns views of the memory-mapped file; see `Engine.vectors`."""
        selected, vectors = frozenset(keys), self._opened.vectors
        if not isinstance(vectors, ByCosine) or not isinstance(vectors.corpus, torch.Tensor):
            return {}  # codes and signs do not give the vectors back
        floats = vectors.corpus.numpy()
        return {key: floats[row] for row, key in enumerate(read_keys(self._opened.file)) if key in selected}

    def disk_bytes(self) -> int:
        """See `Engine.disk_bytes`."""
        return bytes_below(self.folder)

    def close(self) -> None:
        """Closes the files, after the searches that run."""
        self._searches.close()
        self.__dict__.pop("_opened", None)

    def _prepared(self, query: NDArray[np.float32], k: int, dim: int, shortlist: int | None, condition: Filter | None) -> _Search:
        return _Search(query.reshape(-1).astype(np.float32), _Form(self._opened, k, dim, shortlist, condition))

    def _has_similar_graph(self, manifest: Manifest) -> bool:
        """Returns whether the active version's graph compares the same numbers of the same model."""
        try:
            active = read_manifest(self.folder)
        except DataError:
            return False
        return all(getattr(active, name) == getattr(manifest, name) for name in ("graph_dim", "model_hash", "precision"))

    def _place(self, version: str) -> Path:
        return self.folder.with_name(f".{self.folder.name}.{version}")

    @cached_property
    def _opened(self) -> _Opened:
        manifest = read_manifest(self.folder)
        rebuild = "Run `reelnest index` to rebuild it."
        try:
            vectors = open_vectors(self.folder, manifest.storage, manifest.width)
            file = pq.ParquetFile(self.folder / TABLE_FILE)
            table = read_table(file)
            graph = None
            if manifest.graph_dim is not None:
                graph = FolderGraph(self.folder, manifest.videos)
        except (OSError, EOFError, ValueError, RuntimeError, pa.ArrowException) as error:
            raise DataError(f"{self.folder}: the index is incomplete or damaged ({error}). {rebuild}") from None
        expected = shapes(manifest.storage, manifest.videos, manifest.width)
        if vectors.shapes != expected or len(table) != manifest.videos or not table.schema.equals(SEARCHED_SCHEMA):
            shown = f"vectors are {vectors.shapes}, the manifest expects {expected}"
            raise DataError(f"{self.folder}: its files do not match ({shown}). {rebuild}")
        return _Opened(manifest, vectors, table, file, graph)
