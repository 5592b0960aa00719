"""Writes the frame store from the cache of decoded videos.

Shards depend only on the ids and sizes of their videos: a hash of the id decides whether a shard ends after a video. So adding or removing
a video changes its own shard, and rarely a neighbour. All other shards remain the same files, also for DVC and its remote.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from reelnest.atomic_files import atomic_write
from reelnest.errors import NO_SPACE, DataError
from reelnest.store.frame_cache import FrameCache, full_disk, space_for
from reelnest.store.frame_store import (
    INDEX_FILE,
    INDEX_SCHEMA,
    LAYOUT_KEY,
    VERSION,
    VISION_KEY,
    Member,
    shard_name,
)
from reelnest.video.vision_spec import VisionSpec

CUTS_PER_SHARD = 2.0
"""Expected shard ends by hash in the bytes of a full shard. At 2, shards are half full on average and rarely reach the limit."""


def write_store(
    folder: Path, videos: Sequence[tuple[str, str]], cache: FrameCache, shard_megabytes: float, vision: VisionSpec
) -> set[Path]:
    """Writes the store of `videos`, (video_id, key) each, into the new folder `folder`.

    All videos must be in `cache`; `vision` is the vision spec of their rows. Returns the cache's files that the store uses, for
    `FrameCache.keep_only`. Raises DataError if the disk is full.
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
    with space_for(path), atomic_write(path) as out, pa.ipc.new_file(out, index.schema) as writer:
        writer.write_table(index)
    return used


def plan_shards(members: Sequence[Member], shard_bytes: int) -> list[list[Member]]:
    """Divides videos, sorted by id, into shards of at most `shard_bytes` (more only for a single larger video)."""
    groups: list[list[Member]] = []
    open_group: list[Member] = []
    filled = 0
    for member in members:
        if open_group and filled + member.bytes > shard_bytes:
            groups.append(open_group)
            open_group, filled = [], 0
        open_group.append(member)
        filled += member.bytes
        # The probability that a shard ends after a video is proportional to its size.
        if _hash_fraction(member.video_id) < CUTS_PER_SHARD * member.bytes / shard_bytes:
            groups.append(open_group)
            open_group, filled = [], 0
    return [*groups, open_group] if open_group else groups


def _hash_fraction(video_id: str) -> float:
    return int.from_bytes(hashlib.blake2b(video_id.encode(), digest_size=8).digest(), "big") / 2**64


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-links the file. Copies it if the paths are on different disks, or the disk has no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DataError(full_disk(target, error)) from error
        with space_for(target), source.open("rb") as opened, atomic_write(target) as out:
            shutil.copyfileobj(opened, out, 1 << 20)
