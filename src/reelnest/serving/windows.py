"""Cuts long videos of an index into windows, so that a search finds the moment and not only the video."""

from collections.abc import Sequence
from pathlib import Path

from reelnest.records.formats import Video
from reelnest.records.segments import DECIMALS, Segment
from reelnest.settings import Index
from reelnest.video.decoder import Limits
from reelnest.video.inspection import inspect_videos
from reelnest.video.known_videos import KnownVideos

SMALLEST_REST = 0.25
"""A rest of less than this share of a window is added to the last window."""


def windows_of(videos: Sequence[Video], data: Path, settings: Index, limits: Limits, cache: Path, decoder: str) -> dict[str, list[Video]]:
    """Returns the windows of each video file that is longer than one, by video_id. Files that cannot be read have none.

    `cache` is the folder of `KnownVideos`: the lengths of files that `decoder` (`preprocess.decoder`) has inspected before are known.
    """
    if settings.window_seconds is None:
        return {}
    with KnownVideos(cache) as known:
        inspected, _ = inspect_videos([video for video in videos if video.path is not None], data, limits, known, decoder)
    windows: dict[str, list[Video]] = {}
    for video in videos:
        if video.video_id in inspected:
            info = inspected[video.video_id].info
            begin, seconds = (0.0, info.seconds_before + info.seconds) if video.segment is None else (video.segment.start, info.seconds)
            spans = window_times(seconds, settings.window_seconds, settings.window_overlap_seconds)
            if len(spans) > 1:
                cut = [Segment(*(round(begin + time, DECIMALS) for time in times)) for times in spans]
                cut = [segment for segment in cut if segment.end is None or segment.end > info.seconds_before]  # the others show nothing
                windows[video.video_id] = [video.cut(segment) for segment in cut]
    return windows


def window_times(seconds: float, window: float, overlap: float) -> list[tuple[float, float]]:
    """Returns start and end of each window of a video. They begin `window - overlap` seconds apart, and the last ends with the video."""
    starts = [0.0]
    while seconds - (starts[-1] + window) >= SMALLEST_REST * window:
        starts.append(len(starts) * (window - overlap))
    return [*((start, start + window) for start in starts[:-1]), (starts[-1], seconds)]
