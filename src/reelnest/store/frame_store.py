"""The frame store: all decoded videos, in uncompressed memory-mapped Arrow files, so that reading needs no copy and no decoding.

A store is a folder with `index.arrow`, one row per video sorted by video_id, and `shard-00000.arrow`, …, with one record batch per video.
Its bytes depend only on the videos and the sampling settings, not on when or where videos were decoded, so DVC sees only real changes.
`frame_store_writing.py` writes it.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reelnest.errors import DataError
from reelnest.video.frames import Frames
from reelnest.video.vision_spec import Grid, VisionSpec, differences

__all__ = ["FrameStore", "Frames", "Shard"]

INDEX_FILE = "index.arrow"
VERSION = b"reelnest frames 3"
"""A store with another layout version is rejected."""
LAYOUT_KEY, VISION_KEY = b"layout", b"vision"
"""Metadata keys of the index: VERSION, and the vision spec of all rows as JSON."""
OPEN_SHARDS = 256
"""Each open shard holds a file descriptor; a process may have 1024."""

_GRID = pa.list_(pa.int32(), 3)
SHARD_SCHEMA = pa.schema(
    [
        ("video_id", pa.large_string()),
        ("key", pa.string()),  # a digest of the video's bytes, a hyphen, and a digest of the sampling settings
        ("decoder", pa.string()),  # name of the decoder that read the file
        ("grid_thw", _GRID),
        ("seconds_per_grid", pa.float64()),
        ("rows", pa.large_binary()),  # (patches, row width), row-major
    ]
)
INDEX_SCHEMA = pa.schema(
    [
        ("video_id", pa.large_string()),
        ("key", pa.string()),
        ("decoder", pa.string()),
        ("grid_thw", _GRID),
        ("seconds_per_grid", pa.float64()),
        ("shard", pa.int32()),
        ("batch", pa.int32()),  # its number in the shard
    ]
)


def shard_name(number: int) -> str:
    """Returns the file name of a shard."""
    return f"shard-{number:05d}.arrow"


@dataclass(frozen=True, slots=True)
class Member:
    """The metadata of one video in a shard."""

    video_id: str
    key: str
    grid_thw: Grid
    seconds_per_grid: float
    bytes: int
    """Size of its rows."""
    decoder: str = ""
    """Name of the decoder that read its file; empty if there was no file."""


class Shard:
    """A memory-mapped shard. It stays mapped while it, or a view into it, is in use.

    `mapped` is False for a copy of all rows: they are read one video at a time, where a mapping would add all of them to the process.
    """

    def __init__(self, path: Path, *, mapped: bool = True) -> None:
        """Raises OSError, or pyarrow.ArrowInvalid for an incomplete file."""
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)) if mapped else pa.OSFile(str(path)))
        if not self._reader.schema.equals(SHARD_SCHEMA):
            raise pa.ArrowInvalid(f"{path}: not a shard of this version")

    def __len__(self) -> int:
        return int(self._reader.num_record_batches)

    def member(self, number: int) -> Member:
        """Returns the metadata of the video in batch `number`."""
        batch = self._reader.get_batch(number)
        steps, down, across = batch["grid_thw"][0].as_py()
        video_id, key, decoder, seconds = (batch[name][0].as_py() for name in ("video_id", "key", "decoder", "seconds_per_grid"))
        return Member(video_id, key, (steps, down, across), seconds, pc.binary_length(batch["rows"])[0].as_py(), decoder)

    def rows(self, number: int) -> NDArray[np.uint8]:
        """Returns the rows of batch `number`, uint8 (bytes,): read-only, without a copy of the mapped file."""
        # `column[0].as_buffer()` would copy the value.
        _, _, values = self._reader.get_batch(number)["rows"].buffers()
        return np.frombuffer(values, dtype=np.uint8)


class FrameStore:
    """Decoded videos by id, or by index in the sorted ids."""

    def __init__(self, folder: Path, index: pa.Table, vision: VisionSpec) -> None:
        self.vision = vision
        """The vision spec of all rows."""
        self._folder = folder
        self._ids = index["video_id"].combine_chunks()
        self._shards = index["shard"].to_numpy()
        self._batches = index["batch"].to_numpy()
        self._keys = index["key"]
        self._decoders = index["decoder"]
        self._grids = index["grid_thw"].combine_chunks().flatten().to_numpy().reshape(-1, 3)  # (videos, 3)
        self._seconds = index["seconds_per_grid"].to_numpy()
        # One cache per object, so that the mappings end with the object.
        self._shard = functools.lru_cache(OPEN_SHARDS)(lambda number: Shard(folder / shard_name(number)))

    @classmethod
    def open(cls, folder: Path) -> "FrameStore":
        """Opens a store. Raises DataError if `folder` has no store, or one of another version."""
        try:
            index = pa.ipc.open_file(pa.memory_map(str(folder / INDEX_FILE))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{folder}: no readable frame store ({error}). Run `reelnest preprocess` to create it.") from None
        metadata = index.schema.metadata or {}
        if metadata.get(LAYOUT_KEY) != VERSION or not index.schema.equals(INDEX_SCHEMA):
            raise DataError(f"{folder}: a frame store of another version. Run `reelnest preprocess` to recreate it.")
        return cls(folder, index, VisionSpec.of(json.loads(metadata[VISION_KEY])))

    def require(self, vision: VisionSpec) -> None:
        """Raises DataError unless the frames have the vision spec of the model family."""
        if different := differences(self.vision, vision):
            raise DataError(
                f"{self._folder}: its frames were prepared for another model family ({'; '.join(different)}). "
                "Run `reelnest preprocess` for the model of params.yaml."
            )

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._positions

    @property
    def video_ids(self) -> Sequence[str]:
        """All ids, sorted."""
        return tuple(self._positions)

    @property
    def grids(self) -> NDArray[np.int32]:
        """`grid_thw` of every video, (videos, 3)."""
        return self._grids

    @property
    def bytes(self) -> int:
        """Size of all rows, in bytes."""
        return int(self._grids.prod(axis=1, dtype=np.int64).sum()) * self.vision.row_width

    @property
    def decoders(self) -> Sequence[str]:
        """The decoder that read each video, in the order of `video_ids`."""
        names: list[str] = self._decoders.to_pylist()
        return names

    def get(self, video_id: str) -> Frames:
        """Returns the video's frames. Raises KeyError for an unknown id."""
        return self.at(self.index_of(video_id))

    def index_of(self, video_id: str) -> int:
        """Returns the video's index in `video_ids`. Raises KeyError for an unknown id."""
        return self._positions[video_id]

    def content(self, index: int) -> str:
        """Returns a digest of the video's bytes, independent of the sampling settings."""
        key: str = self._keys[index].as_py()
        return key.partition("-")[0]

    def by_key(self, key: str) -> Frames | None:
        """Returns the frames of the video with this key (`frame_cache.frames_key`); None if there is none."""
        index = self._positions_by_key.get(key)
        return None if index is None else self.at(index)

    def at(self, index: int) -> Frames:
        """Returns the frames of the video at this index of `video_ids`."""
        steps, down, across = self._grids[index].tolist()
        rows = functools.partial(self._rows, index)
        return Frames(self.vision, (steps, down, across), float(self._seconds[index]), rows, self._decoders[index].as_py())

    def _rows(self, index: int) -> NDArray[np.uint8]:
        rows = self._shard(int(self._shards[index])).rows(int(self._batches[index]))
        return rows.reshape(-1, self.vision.row_width)

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        return {video_id: index for index, video_id in enumerate(self._ids.to_pylist())}

    @functools.cached_property
    def _positions_by_key(self) -> dict[str, int]:
        return {key: index for index, key in enumerate(self._keys.to_pylist())}

    def __reduce__(self) -> Any:
        raise TypeError("a FrameStore is memory-mapped and cannot be pickled; open it in the other process")
