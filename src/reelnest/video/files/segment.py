"""A segment of an opened video, as a video of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reelnest.errors import VideoError

if TYPE_CHECKING:
    from PIL import Image

    from reelnest.video.decoders import OpenedVideo

END_TOLERANCE_SECONDS = 0.5
"""Annotated times are rounded. A segment may end this long after the video; then it ends with the video."""
LONGEST_SOUND_SECONDS = 60.0
"""The longest time by which sound may begin before the first frame. If it is longer, a time stamp is damaged."""
LONGEST_NEGATIVE_SECONDS = 1.0
"""The longest time by which frames may precede the time at which players begin to count."""
SAME_TIME_SECONDS = 0.001
"""Decoders round time stamps: decord's are float32."""


@dataclass(frozen=True)
class SegmentVideo:
    """Consecutive frames of a video (see `OpenedVideo`)."""

    video: "OpenedVideo"
    first: int
    """Index of the first frame in the video."""
    starts: NDArray[np.float64]
    seconds: float

    def frames(self, indices: Sequence[int]) -> "Iterator[Image.Image]":
        """Decodes the frames at `indices` of the segment."""
        return self.video.frames([self.first + index for index in indices])


def seconds_before(video: "OpenedVideo", zero: float | None) -> float:
    """Returns the time from `zero` (see `cut`) to the first frame; negative if players begin to count after it."""
    first_start = float(video.starts[0])
    is_counted = first_start == 0  # by a decoder that ignores the time stamps of the file
    latest = first_start if is_counted else first_start + LONGEST_NEGATIVE_SECONDS
    if zero is None or not first_start - LONGEST_SOUND_SECONDS < zero < latest:
        return 0.0
    return round(first_start - zero, 6)


def cut(video: "OpenedVideo", start: float, end: float | None, zero: float | None, name: str) -> SegmentVideo:
    """Returns the frames that a player shows from `start` to `end`. The first one may be visible before `start` already.

    `zero` is the time stamp at which players begin to count; by default that of the first frame. Messages call the file `name`.
    Raises VideoError (`bad_segment`) for times after the video's end, or before its first frame.
    """
    before = seconds_before(video, zero)
    zero = float(video.starts[0]) - before
    seconds = before + video.seconds
    if start >= seconds or (end is not None and end > seconds + END_TOLERANCE_SECONDS):
        wrong, advice = (f"begins at {start:g} s", "start") if start >= seconds else (f"ends at {end:g} s", "end, or remove it")
        raise VideoError("bad_segment", f"{name}: the segment {wrong}, but the video lasts {seconds:.3f} s; correct {advice}")
    end = seconds if end is None else min(end, seconds)
    starts = video.starts - zero
    if end <= starts[0]:
        raise VideoError("bad_segment", f"{name}: no frame is shown before {starts[0]:.3f} s, after the segment; correct end")
    first = max(0, int(np.searchsorted(starts, start + SAME_TIME_SECONDS, side="right")) - 1)
    after = max(first + 1, int(np.searchsorted(starts, end - SAME_TIME_SECONDS, side="left")))
    return SegmentVideo(video, first, np.maximum(starts[first:after], start), end - start)
