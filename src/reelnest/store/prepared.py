"""`prepared/`: the input of training and evaluation. Items, pairs and frames, by index.

`items.parquet` has a row for each distinct text and each good video, sorted by kind and key. The row number is the item's index
everywhere. `pairs.parquet` has a row for each good pair. `store/` has the videos' frames in item order.
"""

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reelnest.atomic_files import atomic_write
from reelnest.errors import DataError
from reelnest.records.formats import SPLITS, Kind, Pair, Side
from reelnest.store.cached_rows import CachedRows
from reelnest.store.entries import Entry, Role
from reelnest.store.frame_store import FrameStore

ITEMS_FILE = "items.parquet"
PAIRS_FILE = "pairs.parquet"
STORE_FOLDER = "store"

NAMED_TEXTS = pa.large_list(pa.struct([("name", pa.string()), ("text", pa.large_string())]))
ITEMS_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("key", pa.large_string()),
        ("fields", NAMED_TEXTS),
        ("tags", NAMED_TEXTS),
    ]
)
SEGMENTS_SCHEMA = ITEMS_SCHEMA.append(pa.field("overlaps", pa.large_list(pa.int64())))
"""Of data with segments that overlap: the items that show the same moment."""
PAIRS_SCHEMA = pa.schema(
    [
        ("query", pa.int64()),
        ("target", pa.int64()),
        ("relevance", pa.float32()),
        ("split", pa.string()),
        ("negatives", pa.large_list(pa.int64())),
    ]
)

KNOWN_ENTRIES = 1 << 13
"""Size of the LRU cache of entries, which each epoch reads again. Limited because a video's text fields may be long."""

Indices = NDArray[np.int64]
Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Item:
    """A text or a video. `key` is the text, or the video_id. `fields` are a video's selected text fields, (name, text) each.

    `tags` are a video's metadata, (name, value) each. The encoder never reads them.
    """

    index: int
    kind: Kind
    key: str
    fields: Fields
    tags: Fields = ()


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of one split, by column."""

    queries: Indices  # (pairs,), item indices
    targets: Indices  # (pairs,)
    relevance: NDArray[np.float32]  # (pairs,)
    negatives: tuple[Indices, ...]
    """For each pair, the items listed as irrelevant; often none."""

    def __len__(self) -> int:
        return len(self.queries)


class Prepared:
    """Reads a `prepared/` folder. Tables stay in Arrow memory, so that millions of rows create no Python objects."""

    def __init__(self, store: FrameStore, items: pa.Table, pairs: pa.Table) -> None:
        self.store = store
        self._keys = items["key"]
        self._fields = items["fields"]
        self._tags = items["tags"]
        self._overlaps = items["overlaps"] if "overlaps" in items.column_names else None
        self._first_video = len(items) - len(store)
        self._pair_split = pairs["split"]
        self._queries: Indices = pairs["query"].to_numpy()
        self._targets: Indices = pairs["target"].to_numpy()
        self._relevance: NDArray[np.float32] = pairs["relevance"].to_numpy()
        self._negatives = pairs["negatives"]
        self._video_tokens: CachedRows | None = None
        self._pooled: CachedRows | None = None
        self._known_entry = functools.lru_cache(KNOWN_ENTRIES)(self._make_entry)

    @classmethod
    def open(cls, folder: Path) -> "Prepared":
        """Raises DataError for a missing or incomplete folder."""
        if not folder.is_dir():
            raise DataError(f"{folder} is missing. Run `reelnest preprocess`.")
        tables = []
        for name, schemas in ((ITEMS_FILE, (ITEMS_SCHEMA, SEGMENTS_SCHEMA)), (PAIRS_FILE, (PAIRS_SCHEMA,))):
            try:
                table = pq.read_table(folder / name)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{folder / name}: cannot be read ({error}). Run `reelnest preprocess` to create it.") from None
            if not any(table.schema.equals(schema) for schema in schemas):
                raise DataError(f"{folder / name}: written by another version. Run `reelnest preprocess` to recreate it.")
            tables.append(table.combine_chunks())
        return cls(FrameStore.open(folder / STORE_FOLDER), *tables)

    def __len__(self) -> int:
        return len(self._keys)

    def with_cached(self, *, video_tokens: CachedRows | None = None, pooled: CachedRows | None = None) -> "Prepared":
        """Returns the same data, with cached features of frozen modules in its entries.

        `video_tokens` are indexed by the videos' positions in the store, `pooled` states by `entry_number`.
        """
        prepared = copy.copy(self)
        prepared._video_tokens, prepared._pooled = video_tokens, pooled
        prepared._known_entry = functools.lru_cache(KNOWN_ENTRIES)(prepared._make_entry)
        return prepared

    def entry_number(self, index: int, role: Role) -> int:
        """Returns a unique number for the item in this role, less than twice the number of items."""
        return 2 * int(index) + (role == "target")

    def item_and_role(self, number: int) -> tuple[int, Role]:
        """Returns the inverse of `entry_number`: (index, role)."""
        return number // 2, "target" if number % 2 else "query"

    def item(self, index: int) -> Item:
        """Returns the item at `index`. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no item {index}; there are {len(self)}")
        kind: Kind = "video" if index >= self._first_video else "text"
        fields, tags = (tuple((named["name"], named["text"]) for named in column[index].as_py()) for column in (self._fields, self._tags))
        return Item(index, kind, self._keys[index].as_py(), fields, tags)

    def video_item(self, video_id: str) -> int:
        """Returns the index of a video's item. Raises KeyError."""
        return self._first_video + self.store.index_of(video_id)

    def entry(self, index: int, role: Role) -> Entry:
        """Returns the item as input of the encoder."""
        return self._known_entry(int(index), role)

    def _make_entry(self, index: int, role: Role) -> Entry:
        number = self.entry_number(index, role)
        if self._pooled is not None and number in self._pooled:
            return Entry(role, "", None, pooled=self._pooled[number])
        item = self.item(index)
        if item.kind == "text":
            return Entry(role, item.key, None)
        place = index - self._first_video
        video_tokens = self._video_tokens[place] if self._video_tokens is not None and place in self._video_tokens else None
        return Entry(role, fields_text(item.fields), self.store.at(place), video_tokens)

    def seconds(self, index: int) -> float:
        """Returns a video's length in seconds, by the times of its sampled frames. Raises IndexError for a text."""
        place = int(index) - self._first_video
        if not 0 <= place < len(self.store):
            raise IndexError(f"item {index} is not a video")
        frames = self.store.at(place)
        return frames.grid_thw[0] * frames.seconds_per_grid

    def video_places(self, items: Indices) -> Indices:
        """Returns the positions in the store of the videos among `items`."""
        return items[items >= self._first_video] - self._first_video

    def pairs(self, split: str) -> Pairs:
        """Returns the pairs of `train`, `validation` or `test`, in the order of `pairs.jsonl`."""
        if split not in SPLITS:
            raise ValueError(f"there is no split '{split}'; there are {', '.join(SPLITS)}")
        chosen = np.flatnonzero(self._split_numbers == SPLITS.index(split))
        lists = self._negatives.take(pa.array(chosen)).combine_chunks()
        ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))
        negatives = tuple(np.split(lists.flatten().to_numpy(), ends[:-1])) if len(chosen) else ()
        return Pairs(self._queries[chosen], self._targets[chosen], self._relevance[chosen], negatives)

    def related(self, index: int) -> Indices:
        """Returns items paired with this one in any split and direction, and those of the same moment, sorted. Never its negatives."""
        starts, related = self._relations
        return related[starts[index] : starts[index + 1]]

    @functools.cached_property
    def _split_numbers(self) -> NDArray[np.int8]:
        names = self._pair_split.combine_chunks().dictionary_encode()
        numbers = np.array([SPLITS.index(name) for name in names.dictionary.to_pylist()], dtype=np.int8)
        return numbers[names.indices.to_numpy(zero_copy_only=False)]

    @functools.cached_property
    def _relations(self) -> tuple[Indices, Indices]:
        """The symmetric relation as a compressed sparse row matrix: row starts, (items + 1,), and the column indices of all rows."""
        rows = np.concatenate([self._queries, self._targets])
        columns = np.concatenate([self._targets, self._queries])
        if self._overlaps is not None:
            rows, columns = _with_overlaps(rows, columns, self._overlaps.combine_chunks())
        permutation = np.lexsort((columns, rows))
        rows, columns = rows[permutation], columns[permutation]
        is_new = np.ones(len(rows), dtype=bool)
        is_new[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
        counts = np.bincount(rows[is_new], minlength=len(self))
        return np.concatenate([[0], np.cumsum(counts)]), columns[is_new]


def _with_overlaps(rows: Indices, columns: Indices, overlaps: pa.LargeListArray) -> tuple[Indices, Indices]:
    """Returns the relation of items, extended to those that show the same moment as a related one, and to these themselves."""
    from scipy.sparse import coo_array, eye_array

    count = len(overlaps)
    ends = np.cumsum(overlaps.value_lengths().to_numpy(zero_copy_only=False))
    places = np.repeat(np.arange(count), np.diff(ends, prepend=0)), overlaps.flatten().to_numpy()
    same = coo_array((np.ones(len(places[0]), dtype=np.int64), places), shape=(count, count)).tocsr()
    related = coo_array((np.ones(len(rows), dtype=np.int64), (rows, columns)), shape=(count, count)).tocsr()
    reach = same + eye_array(count, dtype=np.int64, format="csr")
    extended = (reach @ related @ reach + same).tocoo()
    return extended.row.astype(np.int64), extended.col.astype(np.int64)


def fields_text(fields: Fields) -> str:
    """Returns a video's text fields as the encoder reads them: one `name: text` per line."""
    return "\n".join(f"{name}: {text}" for name, text in fields)


def write_tables(
    folder: Path,
    videos: dict[str, Fields],
    pairs: Sequence[Pair],
    splits: Sequence[str],
    tags: Mapping[str, Fields] | None = None,
    overlaps: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes `items.parquet` and `pairs.parquet`.

    `videos` are the good videos with their selected fields. `tags` has the tags of videos that have any. `pairs` name no other videos.
    `overlaps` are `pair_segments.overlapping_segments`.
    """
    texts = sorted({side.value for pair in pairs for side in (pair.query, pair.target, *pair.negatives) if side.kind == "text"})
    ids = sorted(videos)
    # One dictionary per kind, because looking up strings is faster than hashing a million Sides.
    numbers = {
        "text": {text: number for number, text in enumerate(texts)},
        "video": {video_id: len(texts) + number for number, video_id in enumerate(ids)},
    }

    def number(side: Side) -> int:
        return numbers[side.kind][side.value]

    # From generators: lists of a million Python objects would take a gigabyte.
    no_text: list[dict[str, str]] = []
    items: dict[str, Iterable[object]] = {
        "kind": chain(repeat("text", len(texts)), repeat("video", len(ids))),
        "key": chain(texts, ids),
        "fields": chain(repeat(no_text, len(texts)), (_named(videos[video_id]) for video_id in ids)),
        "tags": chain(repeat(no_text, len(texts)), (_named((tags or {}).get(video_id, ())) for video_id in ids)),
    }
    schema = ITEMS_SCHEMA
    if overlaps:
        schema = SEGMENTS_SCHEMA
        of_video = numbers["video"]
        of_videos = (sorted(of_video[same] for same in overlaps.get(video_id, ())) for video_id in ids)
        items["overlaps"] = chain(repeat([], len(texts)), of_videos)
    columns: dict[str, Iterable[object]] = {
        "query": (number(pair.query) for pair in pairs),
        "target": (number(pair.target) for pair in pairs),
        "relevance": (pair.relevance for pair in pairs),
        "split": splits,
        "negatives": (sorted({number(side) for side in pair.negatives}) for pair in pairs),
    }
    for name, table in ((ITEMS_FILE, _table(items, schema)), (PAIRS_FILE, _table(columns, PAIRS_SCHEMA))):
        with atomic_write(folder / name) as out:
            pq.write_table(table, out, compression="zstd")


def _table(columns: Mapping[str, Iterable[object]], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _named(texts: Fields) -> list[dict[str, str]]:
    return [{"name": name, "text": text} for name, text in texts]
