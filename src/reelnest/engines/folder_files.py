"""The files of an index in a folder. The folder is written atomically.

manifest.json   the model (by hash), the dims, the data, counts
vectors.npy …   the vectors in their storage type (`folder_vectors.py`), memory-mapped
videos.parquet  a row for each vector, sorted by id: id, key, text fields, tags, files, times of a segment
skipped.jsonl   the videos that could not be read, with line and reason
graph.usearch   for large corpora, an HNSW graph over the smallest dim, which gives a funnel its shortlist
labels.npy      (videos,) uint64: the label of each row in the graph, which is the same in each version of the index
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from usearch.compiled import MetricKind
from usearch.index import Index as Graph
from usearch.index import Matches

from reelnest.engines.engine import Manifest
from reelnest.engines.stored import manifest_of, video_of
from reelnest.errors import ConfigError, DataError, NoIndex
from reelnest.records.formats import Video

MANIFEST_FILE, TABLE_FILE, SKIPPED_FILE, GRAPH_FILE = "manifest.json", "videos.parquet", "skipped.jsonl", "graph.usearch"
LABELS_FILE = "labels.npy"
METRIC = MetricKind.IP
GRAPH_ROWS = 50_000
"""Rows that are added to a graph at once, as float32."""
LEAST_SHARE = 0.5
"""Of the videos that an earlier graph must have to be changed. With fewer, building takes as long and its results are a little better."""
NAMED_TEXTS = pa.large_list(pa.struct([("name", pa.string()), ("text", pa.large_string())]))
KEY = "key"
VIDEOS_SCHEMA = pa.schema(
    [
        ("video_id", pa.large_string()),
        (KEY, pa.string()),
        ("path", pa.large_string()),
        ("images", pa.large_list(pa.large_string())),
        ("fields", NAMED_TEXTS),
        ("tags", NAMED_TEXTS),
        ("line", pa.int64()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
    ]
)
SEARCHED_SCHEMA = VIDEOS_SCHEMA.remove(VIDEOS_SCHEMA.get_field_index(KEY))


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest. Raises NoIndex if there is no index, or one of another format version; DataError for a damaged file."""
    path = folder / MANIFEST_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists() and not is_replaceable(folder):
            raise NoIndex(f"{folder} is not an index. Expected the folder that `reelnest index --to` wrote.") from None
        raise NoIndex(f"{folder}: there is no index. Run `reelnest index --to {folder}` to make one.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Run `reelnest index` to rebuild the index.") from None
    return manifest_of(stored, str(path))


def is_replaceable(folder: Path) -> bool:
    """Returns whether an index can be written to a folder without the loss of other files: it is missing, empty, or holds an index."""
    if not folder.is_dir():
        return not folder.exists()
    return (folder / MANIFEST_FILE).is_file() or (folder / TABLE_FILE).is_file() or not any(folder.iterdir())


def check_replaceable(folder: Path) -> None:
    """Raises ConfigError for a folder of other files, which an index would replace."""
    if not folder.name:
        raise ConfigError(f"'{folder}' cannot be replaced by an index. Name a new folder, such as index.")
    if not is_replaceable(folder):
        raise ConfigError(f"{folder} exists and is not an index, so nothing was written. Name a new folder, or the folder of an index.")


def videos_table(videos: Sequence[Video], keys: Sequence[str]) -> pa.Table:
    """Returns the rows of `videos.parquet`."""
    columns: dict[str, list[Any]] = {
        "video_id": [video.video_id for video in videos],
        KEY: list(keys),
        "path": [video.path for video in videos],
        "images": [list(video.images) for video in videos],
        "fields": [_named(video.fields) for video in videos],
        "tags": [_named(video.tags) for video in videos],
        "line": [video.line for video in videos],
        "start_seconds": [None if video.segment is None else video.segment.start for video in videos],
        "end_seconds": [None if video.segment is None else video.segment.end for video in videos],
    }
    return pa.table(columns, schema=VIDEOS_SCHEMA)


def read_table(file: pq.ParquetFile) -> pa.Table:
    """Reads `videos.parquet` without the keys: they are half of a large index's table, and no search needs them.

    Raises ArrowException for a damaged file, ValueError for one without keys.
    """
    names = file.schema_arrow.names
    if KEY not in names:
        raise ValueError(f"{TABLE_FILE} has no column {KEY}")
    table = file.read([name for name in names if name != KEY]).combine_chunks()
    if "tags" not in names:  # format 1
        at = SEARCHED_SCHEMA.get_field_index("tags")
        table = table.add_column(at, SEARCHED_SCHEMA.field("tags"), pa.array([[]] * len(table), NAMED_TEXTS))
    pa.default_memory_pool().release_unused()  # of the reading, which takes three times the table's memory
    return table


def read_keys(file: pq.ParquetFile) -> list[str]:
    """Returns the keys of `videos.parquet`, by row. Raises ArrowException."""
    keys: list[str] = file.read([KEY])[KEY].to_pylist()
    return keys


def videos_of(table: pa.Table, rows: Sequence[int]) -> list[Video]:
    """Returns rows of `videos.parquet`."""
    videos = []
    for stored in table.take(pa.array(rows, pa.int64())).to_pylist():
        fields, tags = ({each["name"]: each["text"] for each in stored[column]} for column in ("fields", "tags"))
        videos.append(video_of(stored, fields, tags))
    return videos


def _named(texts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "text": text} for name, text in texts.items()]


class FolderGraph:
    """The graph of an opened index."""

    def __init__(self, folder: Path, videos: int) -> None:
        """Raises OSError, ValueError and RuntimeError for files that are missing or damaged."""
        graph, labels = Graph.restore(folder / GRAPH_FILE, view=True), _read_labels(folder, videos)
        if graph is None or not len(graph) == len(labels) == videos:
            raise ValueError(f"{GRAPH_FILE} and {LABELS_FILE} do not have {videos} rows, as in the manifest")
        self._graph = graph
        self._rows = np.argsort(labels)
        self._labels = labels[self._rows]

    def rows(self, queries: NDArray[np.float32], count: int) -> list[NDArray[np.int64]]:
        """Returns the rows of about the `count` nearest vectors to each of `queries`, (queries, dim)."""
        nearest = self._graph.search(queries, count)
        matches = [nearest] if isinstance(nearest, Matches) else [nearest[query] for query in range(len(queries))]
        return [self._rows[np.searchsorted(self._labels, np.asarray(each.keys))] for each in matches]


def graph_label(video_id: str, key: str) -> int:
    """Returns the label in the graph of a video with these bytes and texts."""
    return int.from_bytes(hashlib.sha256(f"{video_id}\0{key}".encode()).digest()[:8]) >> 1  # usearch reserves the largest


def write_graph(folder: Path, vectors: NDArray[np.floating[Any]], dim: int, labels: NDArray[np.uint64], before: Path | None) -> None:
    """Saves the graph over the first `dim` numbers of `vectors`, in float16.

    They are normalised first, and compared by their product. That is their cosine, in half of the time that usearch needs for a cosine.

    Args:
        folder: the index's.
        vectors: (videos, width).
        labels: (videos,), from `graph_label`.
        before: an index whose graph has the same dim and is of the same model. If it has most of the videos, its graph is taken, and only
            what differs is removed and added.
    """
    if len(np.unique(labels)) < len(labels):  # two hashes are equal: less likely than a broken disk
        labels, before = np.arange(len(labels), dtype=np.uint64), None
    graph = None if before is None else _changed_graph(before, labels)
    if graph is None:
        graph = Graph(ndim=dim, metric=METRIC, dtype="f16")
    missing = ~np.asarray(graph.contains(labels))
    for start in range(0, len(labels), GRAPH_ROWS):
        rows = slice(start, start + GRAPH_ROWS)
        added = missing[rows]
        prefixes = vectors[rows, :dim][added].astype(np.float32)
        graph.add(labels[rows][added], prefixes / np.linalg.norm(prefixes, axis=1, keepdims=True).clip(np.finfo(np.float32).tiny))
    graph.save(folder / GRAPH_FILE)
    np.save(folder / LABELS_FILE, labels)


def _changed_graph(before: Path, labels: NDArray[np.uint64]) -> Graph | None:
    """Returns the graph of an index without the rows that are not among `labels`; None if it has too few of them or cannot be read."""
    try:
        stored = np.load(before / LABELS_FILE, allow_pickle=False)
        if np.isin(labels, stored).mean() < LEAST_SHARE:
            return None
        graph = Graph.restore(before / GRAPH_FILE)
    except (OSError, ValueError, RuntimeError, EOFError):
        return None
    if graph is None or graph.metric_kind != METRIC:  # an older index compared cosines
        return None
    graph.remove(stored[np.isin(stored, labels, invert=True)])
    return graph


def _read_labels(folder: Path, videos: int) -> NDArray[np.uint64]:
    try:
        labels: NDArray[np.uint64] = np.load(folder / LABELS_FILE, allow_pickle=False)
    except FileNotFoundError:  # an older index, whose labels are its rows
        return np.arange(videos, dtype=np.uint64)
    return labels
