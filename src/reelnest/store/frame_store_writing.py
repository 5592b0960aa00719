"""Makes the frame store, and decodes nothing twice.

DVC removes a stage's outputs before the stage runs, so what was decoded is kept outside of them, in `work/frames/`:

- `shards/` holds the shards of the last store, under names made of what is in them. They are hard links to the store's own files, so they
  cost no space (copies where the file system cannot link);
- `spill/` holds videos decoded since, one file each, put there whole as soon as it is decoded. A run that is killed goes on from there.

Which videos share a shard depends on their ids and sizes alone, and locally: after some videos, picked by a hash of the id, a shard ends.
So a video more or less changes the shard that it stands in (seldom a neighbour), and all others stay the same files, for us, for DVC and
for its remote.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reelnest.atomic_files import atomic_write
from reelnest.errors import DataError
from reelnest.store.frame_store import (
    INDEX_FILE,
    INDEX_SCHEMA,
    LAYOUT_KEY,
    OPEN_SHARDS,
    SHARD_SCHEMA,
    VERSION,
    VISION_KEY,
    Member,
    Shard,
    shard_name,
)
from reelnest.video.frames import Frames, FrameSettings
from reelnest.video.sampling import FRAME_SAMPLERS
from reelnest.video.vision_spec import VisionSpec

log = logging.getLogger(__name__)

CUTS_PER_SHARD = 2.0
"""Ends of shards that the hash picks in as many bytes as a shard may have: shards are half full on average, seldom cut by the limit."""
FRAME_RULE = 2
"""Of how the frames of a time are found. A store has no frames of an older rule: under the first one, some were others than asked for."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def video_key(files: Sequence[Path], settings: FrameSettings) -> str:
    """Names the result of decoding: a digest of the bytes, a hyphen, and one of the settings and libraries that decode and resize."""
    wanted = {"sampling", "frames", "decoder", "min_pixels", "max_pixels"}
    if FRAME_SAMPLERS[settings.sampling.sampling].reads_fps:
        wanted.add("fps")
    chosen = {"settings": settings.sampling.model_dump(include=wanted), "vision": asdict(settings.vision)}
    facts = {**chosen, "rule": FRAME_RULE, **_decoder_versions()}
    content = hashlib.blake2b(str(len(files)).encode(), digest_size=20)
    for file in files:
        with file.open("rb") as opened:
            content.update(hashlib.file_digest(opened, "blake2b").digest())
    how = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8)
    return f"{content.hexdigest()}-{how.hexdigest()}"


@functools.cache
def _decoder_versions() -> dict[str, str]:
    # Their pixels may differ by a rounding from one version to the next, and a store must not be a mixture.
    return {name: version(name) for name in ("decord2", "av", "pillow")}


@dataclass(frozen=True)
class _Place:
    """Where a decoded video stands."""

    file: Path
    batch: int
    member: Member


class FrameCache:
    """`work/frames/`. Threads may add to it at once."""

    def __init__(self, folder: Path) -> None:
        self._shards = folder / "shards"
        self._spill = folder / "spill"
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._open = functools.lru_cache(OPEN_SHARDS)(Shard)
        for file in [*sorted(self._spill.glob("*/*.arrow")), *sorted(self._shards.glob("*.arrow"))]:
            self._read(file)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    @property
    def spill(self) -> Path:
        """Where `spill_frames` puts what other processes decode for this cache."""
        return self._spill

    def add(self, key: str, frames: Frames) -> None:
        """Keeps a video that was decoded in this process. Raises DataError when the disk is full."""
        file = spill_frames(self._spill, key, frames)
        with self._lock:
            self._places[key] = _Place(file, 0, _spilled(key, frames))

    def adopt(self, key: str) -> bool:
        """Takes in what another process spilled. False where nothing (whole) is found here."""
        file = _spill_file(self._spill, key)
        return file.is_file() and self._read(file) == 1

    def member(self, video_id: str, key: str) -> Member:
        """The decoded video, as a member of a store in which it is called `video_id`."""
        return replace(self._places[key].member, video_id=video_id)

    def forget_all_but(self, keys: set[str]) -> None:
        """Removes files in which nothing is wanted any more."""
        wanted = {self._places[key].file for key in keys}
        for file in [*self._spill.glob("*/*.arrow"), *self._shards.glob("*.arrow")]:
            if file not in wanted:
                file.unlink()
        self._places = {key: place for key, place in self._places.items() if place.file in wanted}

    def shard(self, members: Sequence[Member]) -> Path:
        """The file with exactly these videos: the one of the last run where they are the same, else written now."""
        digest = hashlib.blake2b(digest_size=20)
        for member in members:
            digest.update(json.dumps([member.video_id, member.key]).encode() + b"\n")
        file = self._shards / f"{digest.hexdigest()}.arrow"
        if not file.is_file():
            with _space_for(file), atomic_write(file) as out:
                _write_batches(out, ((member, self._rows(member.key)) for member in members))
        with self._lock:
            for batch, member in enumerate(members):
                before = self._places[member.key].file
                self._places[member.key] = _Place(file, batch, member)
                # What was spilled stands in the shard now: without this a first run would need twice the space.
                if before.is_relative_to(self._spill):
                    before.unlink(missing_ok=True)
        return file

    def keep_only(self, shards: set[Path]) -> None:
        """Removes all but these shards, once the store that they make up is in place."""
        for file in self._shards.iterdir() if self._shards.is_dir() else ():
            if file not in shards:  # half-written ones of a killed run too
                file.unlink()
        shutil.rmtree(self._spill, ignore_errors=True)

    def _rows(self, key: str) -> NDArray[np.uint8]:
        place = self._places[key]
        # Spilled files hold one video: no use in keeping them open.
        shard = Shard(place.file) if place.file.is_relative_to(self._spill) else self._open(place.file)
        return shard.rows(place.batch)

    def _read(self, file: Path) -> int:
        try:
            shard = Shard(file)
            found = {member.key: _Place(file, batch, member) for batch, member in enumerate(map(shard.member, range(len(shard))))}
        except (OSError, pa.ArrowException) as error:
            log.warning("%s is not whole and is removed; its videos are decoded again (%s)", file, error)
            file.unlink(missing_ok=True)
            return 0
        with self._lock:
            self._places.update(found)
        return len(found)


def spill_frames(folder: Path, key: str, frames: Frames) -> Path:
    """Puts one decoded video, whole, into a cache's spill folder; returns the file. Raises DataError when the disk is full."""
    file = _spill_file(folder, key)
    with _space_for(file), atomic_write(file) as out:
        _write_batches(out, iter([(_spilled(key, frames), frames.rows)]))
    return file


def _spilled(key: str, frames: Frames) -> Member:
    """A decoded video that belongs to no store yet."""
    return Member("", key, frames.grid_thw, frames.seconds_per_grid, frames.rows.nbytes, frames.decoder)


def write_store(
    folder: Path, videos: Sequence[tuple[str, str]], cache: FrameCache, shard_megabytes: float, vision: VisionSpec
) -> set[Path]:
    """Writes the store of `videos`, (video_id, key) each, all of which are in `cache`, into the new folder `folder`.

    `vision` is what their rows were cut for.

    Returns the cache's files that make it up, for `FrameCache.keep_only`. Raises DataError when the disk is full.
    """
    members = [cache.member(video_id, key) for video_id, key in sorted(videos)]
    groups = plan_shards(members, int(shard_megabytes * 1e6))
    folder.mkdir(parents=True)
    used: set[Path] = set()
    for number, group in enumerate(groups):
        file = cache.shard(group)
        _link_or_copy(file, folder / shard_name(number))
        used.add(file)
    places = [(number, batch) for number, group in enumerate(groups) for batch in range(len(group))]
    index = pa.table(
        {
            "video_id": [member.video_id for member in members],
            "key": [member.key for member in members],
            "decoder": [member.decoder for member in members],
            "grid_thw": [list(member.grid_thw) for member in members],
            "seconds_per_grid": [member.seconds_per_grid for member in members],
            "shard": [number for number, _ in places],
            "batch": [batch for _, batch in places],
        },
        schema=INDEX_SCHEMA.with_metadata({LAYOUT_KEY: VERSION, VISION_KEY: json.dumps(asdict(vision), sort_keys=True).encode()}),
    )
    path = folder / INDEX_FILE
    with _space_for(path), atomic_write(path) as out, pa.ipc.new_file(out, index.schema) as writer:
        writer.write_table(index)
    return used


def plan_shards(members: Sequence[Member], shard_bytes: int) -> list[list[Member]]:
    """Divides videos, in the order of their ids, into shards of at most `shard_bytes` (more only where one video is larger)."""
    groups: list[list[Member]] = []
    open_group: list[Member] = []
    filled = 0
    for member in members:
        if open_group and filled + member.bytes > shard_bytes:
            groups.append(open_group)
            open_group, filled = [], 0
        open_group.append(member)
        filled += member.bytes
        # The larger a video, the likelier a shard ends after it: so the chance is the same for every byte.
        if _hash_fraction(member.video_id) < CUTS_PER_SHARD * member.bytes / shard_bytes:
            groups.append(open_group)
            open_group, filled = [], 0
    return [*groups, open_group] if open_group else groups


def _hash_fraction(video_id: str) -> float:
    return int.from_bytes(hashlib.blake2b(video_id.encode(), digest_size=8).digest(), "big") / 2**64


def _write_batches(out: BinaryIO, videos: Iterator[tuple[Member, NDArray[np.uint8]]]) -> None:
    """One record batch a video, so that no more than one is in memory."""
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
    return folder / key[:2] / f"{key}.arrow"  # a folder with a million files is slow on some disks


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for the file. A copy where the two stand on different disks, or the disk knows no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DataError(_full_disk(target, error)) from error
        with _space_for(target), source.open("rb") as opened, atomic_write(target) as out:
            shutil.copyfileobj(opened, out, 1 << 20)


@contextlib.contextmanager
def _space_for(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise DataError(_full_disk(file, error)) from error


def _full_disk(file: Path, error: OSError) -> str:
    return (
        f"{file.parent}: the disk is full or a quota is reached ({error.strerror}). What was decoded so far is kept in work/frames/: "
        "free some space, or lower preprocess.max_pixels or preprocess.frames, and run again."
    )
