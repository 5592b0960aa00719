"""Which packets of a track are displayed, and when."""

import numpy as np
from numpy.typing import NDArray

from reelnest.errors import VideoError
from reelnest.video.files.opening import CONVERT, REMUX
from reelnest.video.files.track import NO_TIME, Track

ABSURD_SECONDS = 1e7
"""No video is this long. A larger time stamp means "unknown", or is damaged."""
LONGEST_GAP_SECONDS = 86_400.0
"""Between two frames. Negative times that are stored as unsigned numbers leave larger gaps."""
EDITED_FORMATS = "mov,"
"""MP4 and QuickTime, which have edit lists."""
EVEN_TIMES = "give it even times: ffmpeg -i IN -vf setpts=N/FRAME_RATE/TB out.mp4"


def displayed_packets(track: Track) -> NDArray[np.int64] | None:
    """Returns the indices of the displayed packets, with increasing times; None if the time stamps do not define their order.

    Not displayed: packets that an edit list discards, packets before the first key frame in the file or in time (they refer to missing
    frames), and leading packets without a time, which FFmpeg uses for times before zero.
    """
    packets = track.packets
    pts = packets.pts
    keys = np.flatnonzero(packets.is_key)
    timed = np.flatnonzero(pts != NO_TIME)
    if not len(keys) or not len(timed):
        return None
    if is_absurd(int(pts[timed].min()), track) or is_absurd(int(pts[timed].max()), track):
        return None
    if (pts[timed[0] :] == NO_TIME).any() or (packets.edit[-1] > 0 and not has_edits(track)):
        return None
    is_displayed = ~packets.is_discarded & (pts != NO_TIME) & (pts >= pts[keys[0]])
    is_displayed[: keys[0]] = False
    displayed = np.flatnonzero(is_displayed)
    displayed = displayed[np.lexsort((pts[displayed], packets.edit[displayed]))]
    if not len(displayed) or (np.diff(pts[displayed]) <= 0).any():  # equal, or the times of two edits overlap
        return None
    return displayed


def has_edits(track: Track) -> bool:
    """Returns whether an edit list shows parts of the file, each decoded on its own, that overlap or are in another order there."""
    return track.format.startswith(EDITED_FORMATS) and bool(track.packets.edit[-1:].any()) and bool(track.packets.is_discarded.any())


def is_absurd(time: int | None, track: Track) -> bool:
    """Returns whether a time stamp cannot be one, as for a negative time that is stored as an unsigned number."""
    return time is not None and abs(time) * track.time_base > ABSURD_SECONDS


def starts_and_seconds(track: Track, pts: NDArray[np.int64], last_duration: int, name: str) -> tuple[NDArray[np.float64], float]:
    """Returns start times of frames with the increasing time stamps `pts`, and the video's length, in seconds. VideoError (`bad_times`)."""
    unit = float(track.time_base)
    starts: NDArray[np.float64] = pts.astype(np.float64) * unit
    gap = float(np.diff(starts).max(initial=0))
    if gap > LONGEST_GAP_SECONDS:
        raise VideoError("bad_times", f"{name}: its time stamps jump by {gap:.3g} s between two frames; {EVEN_TIMES}")
    last = last_duration * unit
    if not 0 < last < ABSURD_SECONDS:
        last = float(np.median(np.diff(starts))) if len(starts) > 1 else seconds_per_frame(track, name)
    seconds = round(float(starts[-1] - starts[0]) + last, 6)
    if seconds > ABSURD_SECONDS:
        raise VideoError("bad_times", f"{name}: by its time stamps it lasts {seconds:.3g} s; {REMUX}")
    return starts, seconds


def check_has_times(track: Track, name: str) -> None:
    """Raises VideoError (`bad_times`) for a file without any time, of which segments cannot be told.

    A program stream that was cut without re-encoding can be without any time stamp. Players then begin to count at different frames.
    """
    packets = track.packets
    if track.format == "mpeg" and (packets.pts == NO_TIME).all() and (packets.dts == NO_TIME).all():
        raise VideoError("bad_times", f"{name}: it has no time stamps, so it has no segments; {CONVERT}")


def seconds_per_frame(track: Track, name: str) -> float:
    """Returns the median duration of a frame, for a track without usable time stamps. Raises VideoError (`bad_times`)."""
    durations = track.packets.duration[track.packets.duration > 0]
    if not len(durations):
        dts = track.packets.dts[track.packets.dts != NO_TIME]
        durations = np.diff(dts)
        durations = durations[durations > 0]  # in concatenated files, times jump back
    if len(durations):
        return float(np.median(durations)) * float(track.time_base)
    if track.rate:
        return float(1 / track.rate)
    raise VideoError("bad_times", f"{name}: it has neither usable time stamps nor a frame rate; {REMUX}")
