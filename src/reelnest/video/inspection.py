"""Inspects every video before preprocessing: whether it can be decoded, its size and its length."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from reelnest.errors import VideoError
from reelnest.progress import Activity
from reelnest.records.formats import VIDEOS_FILE, BadRecord, Video, video_files
from reelnest.video.decoder import Decoder, Limits, VideoInfo, in_parallel
from reelnest.video.frames import Frames, FrameSettings
from reelnest.video.input_files import check_files
from reelnest.video.known_videos import BATCH, Content, KnownVideos

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inspected:
    """A video that can be decoded."""

    info: VideoInfo
    content: Content


@dataclass(frozen=True)
class FrameSink:
    """Takes the frames of the videos that are decoded for inspection, so that preprocessing need not decode them again."""

    settings: FrameSettings
    add: Callable[[Content, Frames], None]
    """Called from several threads."""


def inspect_videos(
    videos: Sequence[Video], folder: Path, limits: Limits, known: KnownVideos, decoder: str, sink: FrameSink | None = None
) -> tuple[dict[str, Inspected], list[BadRecord]]:
    """Opens each video that is not known and decodes some of its frames, in parallel child processes. `decoder` is `preprocess.decoder`.

    Returns the inspected videos by video_id, and a BadRecord for each video that is missing, cannot be decoded or exceeds the limits.
    The results do not depend on what is known.
    """
    good: dict[str, Inspected] = {}
    bad: list[BadRecord] = []
    root = folder.resolve()

    def reject(video: Video, error: VideoError) -> None:
        # File names as in videos.jsonl: the report must not depend on the project's folder.
        detail = str(error).replace(f"{root}{os.sep}", "")
        bad.append(BadRecord(VIDEOS_FILE, video.line, error.reason, detail, video.video_id))

    unknown: list[tuple[Video, Content]] = []
    hashed = iter(
        Activity("hashing", len(videos), "video").over(
            known.contents(videos, partial(video_files, folder=folder), partial(check_files, limits=limits))
        )
    )
    while batch := list(islice(hashed, BATCH)):
        readable: list[tuple[Video, Content]] = []
        for video, content in batch:
            if isinstance(content, VideoError):
                reject(video, content)
            else:
                readable.append((video, content.cut(video.segment)))
        infos = known.inspections([content for _, content in readable], decoder)
        for (video, content), info in zip(readable, infos, strict=True):
            if info is None or not info.is_within(limits) or not limits.allow_bytes(content.bytes):
                unknown.append((video, content))
            else:
                good[video.video_id] = Inspected(info, content)

    started = time.monotonic()
    hanging: dict[str, VideoError] = {}
    results = in_parallel(unknown, partial(_inspect, folder=folder, decoder=decoder, sink=sink, hanging=hanging), limits)
    failed = len(bad)
    for (video, content), result in Activity("inspecting", len(unknown), "video").over(results):
        if isinstance(result, VideoError):
            reject(video, result)
        else:
            known.learn(content, decoder, result)
            good[video.video_id] = Inspected(result, content)
    if unknown:
        seconds = time.monotonic() - started
        counts = (len(unknown), seconds, len(unknown) / max(seconds, 1e-9), len(bad) - failed)
        log.info("inspected %d videos in %.1f s (%.0f a second), %d of them bad", *counts)
    for video in videos:  # whether a segment was tried before another one hung is chance
        if video.segment is not None and video.path in hanging and video.video_id in good:
            del good[video.video_id]
            reject(video, hanging[video.path])
    known.forget_others([video.content for video in good.values()], decoder)
    return good, sorted(bad, key=lambda record: record.line)


def _inspect(
    process: Decoder,
    job: tuple[Video, Content],
    folder: Path,
    decoder: str,
    sink: FrameSink | None,
    hanging: dict[str, VideoError],
) -> VideoInfo:
    """`hanging` has the files on which the decoder hung or crashed so far. It is not tried again on each of their segments."""
    video, content = job
    if video.segment is not None and video.path in hanging:
        raise hanging[video.path]
    files = video_files(video, folder)
    try:
        if sink is None:
            return process.inspect(files, decoder, video.segment)
        info, frames = process.inspect_and_sample(files, sink.settings, video.segment)
    except VideoError as error:
        if video.path is not None and error.reason in ("timeout", "decoder_crashed"):
            hanging[video.path] = error
        raise
    if frames is not None:
        sink.add(content, frames)
    return info
