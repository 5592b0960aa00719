"""The frame cache `work/frames/`, so that no video is decoded twice.

DVC removes a stage's outputs before the stage runs, so decoded videos are cached outside of them:

- `shards/` contains the shards of the last store, named by a digest of their content. They are hard links to the store's files, so they
  take no space (copies if the file system has no links);
- `places.arrow` lists their videos, because reading a million record batches takes minutes;
- `spill/` contains videos decoded since, one file each, written atomically. A killed run resumes from there.
"""

import contextlib
import functools
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reelnest.atomic_files import atomic_write
from reelnest.errors import NO_SPACE, DataError
from reelnest.store.frame_store import (
    OPEN_SHARDS,
    SHARD_SCHEMA,
    Member,
    Shard,
)
from reelnest.video.frames import Frames, FrameSettings
from reelnest.video.known_videos import Content, decoder_versions
from reelnest.video.sampling import FRAME_SAMPLERS

log = logging.getLogger(__name__)

FRAME_RULE = 2
"""Version of the code that finds frames by time. A new value decodes all videos again. Version 1 returned some wrong frames."""


def frames_key(content: Content, settings: FrameSettings) -> str:
    """Returns the cache key of a decoded video: a digest of its files' bytes, a hyphen, and a digest of settings and library versions."""
    return f"{content.digest}-{_settings_digest(settings)}"


@functools.lru_cache(maxsize=8)
def _settings_digest(settings: FrameSettings) -> str:
    relevant = {"sampling", "frames", "decoder", "min_pixels", "max_pixels"}
    if FRAME_SAMPLERS[settings.sampling.sampling].reads_fps:
        relevant.add("fps")
    chosen = {"settings": settings.sampling.model_dump(include=relevant), "vision": asdict(settings.vision)}
    facts = {**chosen, "rule": FRAME_RULE, **decoder_versions()}
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()


PLACES_FILE = "places.arrow"
_PLACES_SCHEMA = pa.schema(
    [("file", pa.string()), ("batch", pa.int32()), ("bytes", pa.int64()), *(field for field in SHARD_SCHEMA if field.name != "rows")]
)


@dataclass(frozen=True, slots=True)
class _Place:
    """The file and record batch of a decoded video."""

    file: Path
    batch: int
    member: Member


class FrameCache:
    """The cache `work/frames/`. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._list = folder / PLACES_FILE
        self._shards = folder / "shards"
        self._spill = spill_folder(folder)
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._open = functools.lru_cache(OPEN_SHARDS)(functools.partial(Shard, mapped=False))
        for file in sorted(self._spill.glob("*/*.arrow")):
            self._read(file)
        listed = self._read_list()
        for file in sorted(self._shards.glob("*.arrow")):
            if file not in listed:
                self._read(file)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    @property
    def spill(self) -> Path:
        """The folder in which `spill_frames` puts videos that other processes decode."""
        return self._spill

    def add(self, key: str, frames: Frames) -> None:
        """Stores a video that was decoded in this process. Raises DataError if the disk is full."""
        file = spill_frames(self._spill, key, frames)
        with self._lock:
            self._places[key] = _Place(file, 0, _spilled(key, frames))

    def adopt(self, key: str) -> bool:
        """Registers a video that another process spilled. Returns False if its file is missing or incomplete."""
        file = _spill_file(self._spill, key)
        return file.is_file() and self._read(file) == 1

    def member(self, video_id: str, key: str) -> Member:
        """Returns the decoded video's metadata, with `video_id` as its id."""
        known = self._places[key].member
        return Member(video_id, key, known.grid_thw, known.seconds_per_grid, known.bytes, known.decoder)

    def prune(self, keys: set[str]) -> None:
        """Removes files that contain none of the videos `keys`."""
        used = {self._places[key].file for key in keys}
        for file in [*self._spill.glob("*/*.arrow"), *self._shards.glob("*.arrow")]:
            if file not in used:
                file.unlink()
        self._places = {key: place for key, place in self._places.items() if place.file in used}

    def shard(self, members: Sequence[Member]) -> Path:
        """Returns the file with exactly these videos: that of the last run if they are the same, otherwise a new one."""
        digest = hashlib.blake2b(digest_size=20)
        for member in members:
            digest.update(json.dumps([member.video_id, member.key]).encode() + b"\n")
        file = self._shards / f"{digest.hexdigest()}.arrow"
        if not file.is_file():
            with space_for(file), atomic_write(file) as out:
                write_batches(out, ((member, self._rows(member.key)) for member in members))
        with self._lock:
            for batch, member in enumerate(members):
                before = self._places[member.key].file
                self._places[member.key] = _Place(file, batch, member)
                # The shard now contains the spilled video. Without this, a first run would need twice the space.
                if before != file and before.is_relative_to(self._spill):
                    before.unlink(missing_ok=True)
        return file

    def keep_only(self, shards: set[Path]) -> None:
        """Removes all other shards and all spilled videos, and lists the rest. Call it once the new store is in place."""
        self._write_list(shards)
        for file in self._shards.iterdir() if self._shards.is_dir() else ():
            if file not in shards:  # also incomplete files of a killed run
                file.unlink()
        shutil.rmtree(self._spill, ignore_errors=True)

    def _rows(self, key: str) -> NDArray[np.uint8]:
        place = self._places[key]
        # A spilled file has one video, so it is not cached as open.
        shard = Shard(place.file) if place.file.is_relative_to(self._spill) else self._open(place.file)
        return shard.rows(place.batch)

    def _write_list(self, shards: set[Path]) -> None:
        places = [place for place in self._places.values() if place.file in shards]
        members = [place.member for place in places]
        columns = {
            "file": [place.file.name for place in places],
            "batch": [place.batch for place in places],
            **{name: [getattr(member, name) for member in members] for name in _PLACES_SCHEMA.names[2:]},
        }
        table = pa.table(columns, schema=_PLACES_SCHEMA)
        with space_for(self._list), atomic_write(self._list) as out, pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)

    def _read_list(self) -> set[Path]:
        """Reads the videos of the listed shards that are complete. Returns these shards."""
        try:
            table = pa.ipc.open_file(pa.memory_map(str(self._list))).read_all()
        except (OSError, pa.ArrowException):
            return set()
        if not table.schema.equals(_PLACES_SCHEMA):
            return set()
        counts = {self._shards / row["values"]: row["counts"] for row in table["file"].value_counts().to_pylist()}
        complete = {file.name: file for file, count in counts.items() if _batches_in(file) == count}
        columns = (table[name].to_pylist() for name in _PLACES_SCHEMA.names)
        for name, batch, size, video_id, key, decoder, grid, seconds in zip(*columns, strict=True):
            if name in complete:
                self._places[key] = _Place(complete[name], batch, Member(video_id, key, tuple(grid), seconds, size, decoder))
        return set(complete.values())

    def _read(self, file: Path) -> int:
        try:
            shard = Shard(file)
            places = {member.key: _Place(file, batch, member) for batch, member in enumerate(map(shard.member, range(len(shard))))}
        except (OSError, pa.ArrowException) as error:
            log.warning("%s is incomplete and is removed; its videos are decoded again (%s)", file, error)
            file.unlink(missing_ok=True)
            return 0
        with self._lock:
            self._places.update(places)
        return len(places)


def listed_keys(cache: Path) -> frozenset[str]:
    """Returns the keys of the videos of the last store, as far as they are listed."""
    try:
        return frozenset(pa.ipc.open_file(pa.memory_map(str(cache / PLACES_FILE))).read_all()["key"].to_pylist())
    except (OSError, pa.ArrowException, KeyError):
        return frozenset()


def _batches_in(file: Path) -> int | None:
    """Returns the number of videos in a shard; None for a missing or incomplete one."""
    try:
        return len(Shard(file))
    except (OSError, pa.ArrowException):
        return None


def spill_folder(cache: Path) -> Path:
    """Returns the folder of single videos in a cache."""
    return cache / "spill"


def spill_frames(folder: Path, key: str, frames: Frames) -> Path:
    """Writes one decoded video atomically into a cache's spill folder. Returns the file. Raises DataError if the disk is full."""
    file = _spill_file(folder, key)
    with space_for(file), atomic_write(file) as out:
        write_batches(out, iter([(_spilled(key, frames), frames.rows)]))
    return file


def _spilled(key: str, frames: Frames) -> Member:
    """Returns the metadata of a decoded video that is not in a store yet."""
    return Member("", key, frames.grid_thw, frames.seconds_per_grid, frames.rows.nbytes, frames.decoder)


def write_batches(out: BinaryIO, videos: Iterator[tuple[Member, NDArray[np.uint8]]]) -> None:
    """Writes one record batch per video, so that only one is in memory."""
    with pa.ipc.new_file(out, SHARD_SCHEMA) as writer:
        for member, rows in videos:
            data = pa.py_buffer(np.ascontiguousarray(rows))
            offsets = pa.py_buffer(np.array([0, data.size], dtype=np.int64))
            columns = [
                pa.array([member.video_id], pa.large_string()),
                pa.array([member.key], pa.string()),
                pa.array([member.decoder], pa.string()),
                pa.array([list(member.grid_thw)], SHARD_SCHEMA.field("grid_thw").type),
                pa.array([member.seconds_per_grid], pa.float64()),
                pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data]),  # no copy
            ]
            writer.write_batch(pa.record_batch(columns, schema=SHARD_SCHEMA))


def _spill_file(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.arrow"  # subfolders, because a folder with a million files is slow on some disks


@contextlib.contextmanager
def space_for(file: Path) -> Iterator[None]:
    """Raises DataError with advice if the disk is full while the block writes `file`."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise DataError(full_disk(file, error)) from error


def full_disk(file: Path, error: OSError) -> str:
    """Returns what to do if the disk is full."""
    return (
        f"{file.parent}: the disk is full or a quota is reached ({error.strerror}). Free some space, or lower "
        "preprocess.max_pixels or preprocess.frames, and run again: videos decoded so far are cached in work/frames/."
    )
