"""The engine that needs no server: a folder of files (`folder_files.py`) that this process memory-maps and searches."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from usearch.index import Index as Graph

from reelnest.atomic_files import flush_folder, replace_folder, write_json
from reelnest.engines.engine import ENGINES, Hits, Item, Manifest, Vector
from reelnest.engines.folder_files import (
    GRAPH_FILE,
    MANIFEST_FILE,
    SKIPPED_FILE,
    TABLE_FILE,
    VECTORS_FILE,
    VIDEOS_SCHEMA,
    read_manifest,
    read_table,
    video_of,
    videos_table,
    write_graph,
)
from reelnest.engines.folder_filter import TableFilter
from reelnest.errors import DataError, QueryError
from reelnest.records.formats import BadRecord, Video, write_quarantine
from reelnest.search.filters import Filter
from reelnest.search.funnel import funnel_topk, rescore
from reelnest.search.storage import Searched, SelectedRows, prefix
from reelnest.search.topk import Ranking, prefix_topk


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
    vectors: Tensor  # (videos, width)
    table: pa.Table
    graph: Graph | None

    @cached_property
    def filter(self) -> TableFilter:
        return TableFilter(self.table)

    @cached_property
    def rows(self) -> dict[str, int]:
        return {video_id: row for row, video_id in enumerate(self.table["video_id"].to_pylist())}


@ENGINES.register("folder")
class FolderEngine:
    """An index in a folder. Threads may search it concurrently. An opened index does not change when the folder is replaced."""

    def __init__(self, location: str) -> None:
        self.folder = Path(location)
        self._unfinished: dict[str, _Unfinished] = {}

    def create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None:
        """Creates a folder beside the index's; see `Engine.create`."""
        for orphan in self.folder.parent.glob(f".{self.folder.name}.*"):
            shutil.rmtree(orphan, ignore_errors=True)
        place = self._place(version)
        place.mkdir(parents=True)
        shape = (manifest.videos, manifest.width)
        vectors = np.lib.format.open_memmap(place / VECTORS_FILE, "w+", np.dtype(manifest.storage), shape)
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
        """Writes all files except the vectors, which `upsert` wrote; see `Engine.build`."""
        unfinished, place = self._unfinished.pop(version), self._place(version)
        unfinished.vectors.flush()
        if unfinished.manifest.graph_dim is not None:
            write_graph(place / GRAPH_FILE, unfinished.vectors, unfinished.manifest.graph_dim)
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
        """See `Engine.search`. With a filter, the shortlist is exact too."""
        width, vectors = self.manifest.width, self._opened.vectors
        queries = torch.from_numpy(np.atleast_2d(query).astype(np.float32))
        selected = None if condition is None else torch.from_numpy(self._opened.filter.rows(condition))
        corpus: Searched = vectors if selected is None else SelectedRows(vectors, selected)
        graph = self._opened.graph
        if shortlist is None or dim == width:
            return self._hits(prefix_topk(queries[:, :dim], prefix(corpus, dim), [dim], k)[dim], (dim,), selected)
        if graph is None or dim != self.manifest.graph_dim or selected is not None:
            return self._hits(funnel_topk(queries, corpus, [dim, width], [max(shortlist, k)], k), (dim, width), selected)
        matches = graph.search(queries[0, :dim].numpy(), max(shortlist, k))
        rows = torch.from_numpy(np.asarray(matches.keys, dtype=np.int64))[None]
        return self._hits(rescore(queries, vectors, rows, k), (dim, width))

    def get(self, ids: Sequence[str]) -> list[Video]:
        """See `Engine.get`."""
        if any(video_id not in self._opened.rows for video_id in ids):
            raise QueryError("The index has no video of this id.")
        return [video_of(self._opened.table, self._opened.rows[video_id]) for video_id in ids]

    def vectors(self, keys: Collection[str]) -> Mapping[str, Vector]:
        """Views of the memory-mapped file; see `Engine.vectors`."""
        selected, vectors = frozenset(keys), self._opened.vectors.numpy()
        return {key: vectors[row] for row, key in enumerate(self._opened.table["key"].to_pylist()) if key in selected}

    def close(self) -> None:
        """Closes the files."""
        self.__dict__.pop("_opened", None)

    def _place(self, version: str) -> Path:
        return self.folder.with_name(f".{self.folder.name}.{version}")

    def _hits(self, ranking: Ranking, dims: tuple[int, ...], selected: Tensor | None = None) -> Hits:
        rows = ranking.indices[0] if selected is None else selected[ranking.indices[0]]
        names = self._opened.table["video_id"].take(rows.numpy()).to_pylist()
        return Hits(names, ranking.scores[0].tolist(), dims)

    @cached_property
    def _opened(self) -> _Opened:
        manifest = read_manifest(self.folder)
        rebuild = "Run `reelnest index` to rebuild it."
        try:
            # Copy on write, because torch warns about arrays that are read-only.
            vectors = torch.from_numpy(np.load(self.folder / VECTORS_FILE, mmap_mode="c", allow_pickle=False))
            table = read_table(self.folder)
            graph = None
            if manifest.graph_dim is not None:
                graph = Graph.restore(self.folder / GRAPH_FILE, view=True)
        except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
            raise DataError(f"{self.folder}: the index is incomplete or damaged ({error}). {rebuild}") from None
        expected = (manifest.videos, manifest.width)
        if vectors.shape != expected or len(table) != manifest.videos or not table.schema.equals(VIDEOS_SCHEMA):
            shape = tuple(vectors.shape)
            raise DataError(f"{self.folder}: its files do not match (vectors are {shape}, the manifest expects {expected}). {rebuild}")
        if manifest.graph_dim is not None and (graph is None or len(graph) != manifest.videos):
            raise DataError(f"{self.folder / GRAPH_FILE}: expected {manifest.videos} vectors, as in the manifest. {rebuild}")
        return _Opened(manifest, vectors, table, graph)
