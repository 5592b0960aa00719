"""The index: what a search over a corpus needs, made once. A folder, whole or absent.

manifest.json   the model that made the vectors (by its hash), the dims, the data, counts
vectors.npy     (videos, width) of unit length, float32 or float16: memory-mapped, so that a process reads what it searches
videos.parquet  a row for each vector, in the order of the ids: id, key, text fields, files
skipped.jsonl   videos that could not be read, each with its line and the reason
graph.usearch   for large corpora, nearest neighbours over the smallest dim (HNSW), from which a funnel takes its shortlist
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from usearch.index import Index as Graph

from reelnest.errors import DataError, QueryError
from reelnest.records.formats import Video, video_files
from reelnest.search.funnel import funnel_topk, rescore
from reelnest.search.topk import Ranking, prefix_topk
from reelnest.settings import Section

MANIFEST_FILE, VECTORS_FILE, TABLE_FILE, SKIPPED_FILE, GRAPH_FILE = (
    "manifest.json", "vectors.npy", "videos.parquet", "skipped.jsonl", "graph.usearch",
)  # fmt: skip
FORMAT_VERSION = 1
IndexStorage = Literal["float32", "float16"]
STORAGES: tuple[IndexStorage, ...] = get_args(IndexStorage)
VIDEOS_SCHEMA = pa.schema(
    [
        ("video_id", pa.large_string()),
        ("key", pa.string()),  # of the video's bytes, the sampling settings and the text that was encoded with them
        ("path", pa.large_string()),
        ("images", pa.large_list(pa.large_string())),
        ("fields", pa.large_list(pa.struct([("name", pa.string()), ("text", pa.large_string())]))),
        ("line", pa.int64()),
    ]
)


class Manifest(Section):
    """What an index was made of."""

    format_version: int
    model: str
    """What opens the model again: its folder, seen from the index's, or `models:/name/version`."""
    model_hash: str
    """Of its files: vectors of another model cannot be compared with these."""
    base: str
    """What it was trained from, for people to read."""
    dims: tuple[int, ...]
    """The prefixes that the model was trained for; the last is the width of the vectors."""
    data: str
    """The corpus's folder, seen from the index's."""
    data_hash: str
    """Of the ids, bytes and texts of all videos in the index."""
    storage: IndexStorage
    graph_dim: int | None
    """The prefix that the graph is over; None without a graph."""
    videos: int
    skipped: int

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.dims[-1]


@dataclass(frozen=True)
class Found:
    """What a search over an index gave."""

    ranking: Ranking
    dims: tuple[int, ...]
    """One, or those of the funnel, of which the last gave the scores."""


class SearchIndex:
    """An opened index. Threads may search it at once."""

    def __init__(self, folder: Path, manifest: Manifest, vectors: Tensor, videos: pa.Table, graph: Graph | None) -> None:
        self.folder, self.manifest = folder, manifest
        self.data = Path(os.path.normpath(folder.resolve() / manifest.data))
        self.vectors = vectors
        self._videos, self._graph = videos, graph

    @classmethod
    def open(cls, folder: Path) -> "SearchIndex":
        """Raises DataError for a folder that holds no index, one of another version, or one that is not whole."""
        manifest = read_manifest(folder)
        again = "Run `reelnest index` to make it anew."
        try:
            # Copy on write: torch warns of arrays that it could not write to.
            vectors = torch.from_numpy(np.load(folder / VECTORS_FILE, mmap_mode="c", allow_pickle=False))
            videos = pq.read_table(folder / TABLE_FILE).combine_chunks()
            graph = None
            if manifest.graph_dim is not None:
                graph = Graph.restore(folder / GRAPH_FILE, view=True)
        except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
            raise DataError(f"{folder}: not a whole index ({error}). {again}") from None
        expected = (manifest.videos, manifest.width)
        if vectors.shape != expected or len(videos) != manifest.videos or not videos.schema.equals(VIDEOS_SCHEMA):
            raise DataError(f"{folder}: its files do not fit together (vectors {tuple(vectors.shape)}, expected {expected}). {again}")
        if manifest.graph_dim is not None and (graph is None or len(graph) != manifest.videos):
            raise DataError(f"{folder / GRAPH_FILE}: does not fit the vectors. {again}")
        return cls(folder, manifest, vectors, videos, graph)

    def __len__(self) -> int:
        return self.manifest.videos

    @cached_property
    def keys(self) -> dict[str, int]:
        """The rows by what was encoded."""
        return {key: row for row, key in enumerate(self._videos["key"].to_pylist())}

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {video_id: row for row, video_id in enumerate(self._videos["video_id"].to_pylist())}

    def video(self, row: int) -> Video:
        """The video of this row, as the data folder named it."""
        found = self._videos.slice(row, 1).to_pylist()[0]
        fields = {field["name"]: field["text"] for field in found["fields"]}
        return Video(found["video_id"], found["path"], tuple(found["images"]), fields, found["line"])

    def files(self, video_id: str) -> list[Path]:
        """The files of a video of this index, under its data folder. Raises QueryError for an unknown id, VideoError for a lost file."""
        if video_id not in self._rows:
            raise QueryError("The index has no video of this id.")
        return video_files(self.video(self._rows[video_id]), self.data)

    def check_dim(self, dim: int | None) -> int:
        """`dim`, or the full width where it is left out. Raises QueryError for one that the vectors do not have."""
        dim = self.manifest.width if dim is None else dim
        if not 1 <= dim <= self.manifest.width:
            trained = ", ".join(map(str, self.manifest.dims))
            raise QueryError(
                f"dim {dim}: this index can be searched at {trained}, the dims of its model (others from 1 to {self.manifest.width} "
                "can be asked for too, and answer worse than their size promises)."
            )
        return dim

    def search(self, query: NDArray[np.float32], k: int, *, dim: int | None = None, funnel: bool = False, shortlist: int = 100) -> Found:
        """The best `k` videos for one query vector, (width,).

        With `funnel`, `dim` (the smallest trained one where left out) only chooses a shortlist, which is ordered anew over the full width.
        Raises QueryError for a dim that there is not, ModelError for NaN.
        """
        width = self.manifest.width
        if funnel and dim is None:
            dim = self.manifest.dims[0]
        dim = self.check_dim(dim)
        queries = torch.from_numpy(np.atleast_2d(query).astype(np.float32))
        if not funnel or dim == width:
            return Found(prefix_topk(queries[:, :dim], self.vectors[:, :dim], [dim], k)[dim], (dim,))
        shortlist = max(shortlist, k)
        if self._graph is None or dim != self.manifest.graph_dim:
            return Found(funnel_topk(queries, self.vectors, [dim, width], [shortlist], k), (dim, width))
        matches = self._graph.search(queries[0, :dim].numpy(), shortlist)
        rows = torch.from_numpy(np.asarray(matches.keys, dtype=np.int64))[None]
        return Found(rescore(queries, self.vectors, rows, k), (dim, width))


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError where there is no index, or one of another version."""
    path = folder / MANIFEST_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: there is no index. Run `reelnest index --out {folder}` to make one.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Run `reelnest index` to make the index anew.") from None
    version = stored.get("format_version") if isinstance(stored, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: an index of version {version}; this reelnest reads {FORMAT_VERSION}. Run `reelnest index` to make it anew."
        )
    try:
        return Manifest.model_validate({**stored, "dims": tuple(stored["dims"])})
    except (ValidationError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not as this version writes it ({error}). Run `reelnest index` to make the index anew.") from None


def videos_table(videos: Sequence[Video], keys: Sequence[str]) -> pa.Table:
    """The rows of `videos.parquet`."""
    columns: dict[str, list[Any]] = {
        "video_id": [video.video_id for video in videos],
        "key": list(keys),
        "path": [video.path for video in videos],
        "images": [list(video.images) for video in videos],
        "fields": [[{"name": name, "text": text} for name, text in video.fields.items()] for video in videos],
        "line": [video.line for video in videos],
    }
    return pa.table(columns, schema=VIDEOS_SCHEMA)


def write_graph(path: Path, vectors: NDArray[np.floating[Any]], dim: int) -> None:
    """Builds the graph over the first `dim` numbers of `vectors`, in float16, and saves it."""
    graph = Graph(ndim=dim, metric="cos", dtype="f16")
    graph.add(np.arange(len(vectors)), np.ascontiguousarray(vectors[:, :dim], dtype=np.float32))
    graph.save(path)
