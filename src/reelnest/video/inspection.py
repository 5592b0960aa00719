"""Inspects every video before preprocessing: whether it can be decoded, its size and its length."""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reelnest.errors import VideoError
from reelnest.progress import Activity
from reelnest.records.formats import VIDEOS_FILE, BadRecord, Video, video_files
from reelnest.video.decoder import Decoder, Limits, VideoInfo, in_parallel
from reelnest.video.decoders import AUTO

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inspected:
    """A video that can be decoded."""

    info: VideoInfo
    bytes: int
    """Size of its file, or of all its frame files."""


def inspect_videos(
    videos: Sequence[Video], folder: Path, limits: Limits, decoder: str = AUTO, workers: int | None = None
) -> tuple[dict[str, Inspected], list[BadRecord]]:
    """Opens each video and decodes some of its frames, in parallel child processes. `decoder` is `preprocess.decoder`.

    Returns the inspected videos by video_id, and a BadRecord for each video that is missing, cannot be decoded or exceeds the limits.
    """

    def inspect(process: Decoder, video: Video) -> Inspected:
        files = video_files(video, folder)
        return Inspected(process.inspect(files, decoder), sum(file.stat().st_size for file in files))

    good: dict[str, Inspected] = {}
    bad: list[BadRecord] = []
    root = folder.resolve()
    started = time.monotonic()
    results = in_parallel(videos, inspect, limits, workers)
    for video, result in Activity("inspecting", len(videos), "video").over(results):
        if isinstance(result, VideoError):
            # File names as in videos.jsonl: the report must not depend on the project's folder.
            detail = str(result).replace(f"{root}{os.sep}", "")
            bad.append(BadRecord(VIDEOS_FILE, video.line, result.reason, detail, video.video_id))
        else:
            good[video.video_id] = result
    seconds = time.monotonic() - started
    rate = len(videos) / max(seconds, 1e-9)
    log.info("inspected %d videos in %.1f s (%.0f a second), %d of them bad", len(videos), seconds, rate, len(bad))
    return good, bad


def content_digests(videos: Sequence[Video], inspected: dict[str, Inspected], folder: Path) -> dict[str, str]:
    """A digest of the bytes of each video that has the same size as another, by video_id. Equal digests are duplicate videos.

    Videos with a unique size are not read.
    """
    by_size: dict[int, list[Video]] = {}
    for video in videos:
        if video.video_id in inspected:
            by_size.setdefault(inspected[video.video_id].bytes, []).append(video)
    shared = [video for same_size in by_size.values() if len(same_size) > 1 for video in same_size]
    return {video.video_id: _digest(video_files(video, folder)) for video in shared}


def _digest(files: Sequence[Path]) -> str:
    # A digest of the files' digests, so that the same bytes divided into other files give another digest.
    combined = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            combined.update(hashlib.file_digest(file, "sha256").digest())
    return combined.hexdigest()
