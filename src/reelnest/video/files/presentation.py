"""Which packets of a track are shown, and when."""

import numpy as np
from numpy.typing import NDArray

from reelnest.errors import VideoError
from reelnest.video.files.opening import REMUX
from reelnest.video.files.track import NO_TIME, Packets, Track

ABSURD_SECONDS = 1e7
"""No video is so long: a time stamp beyond it stands for "unknown", or is damaged."""


def shown_packets(packets: Packets) -> NDArray[np.int64] | None:
    """The positions of the packets that are shown, in the order in which they are; None where the time stamps do not say.

    Hidden are what an edit list discards, what stands before the first key frame in the file or in time (it refers to frames that are not
    there), and leading packets without a time, which FFmpeg gives those that come before time zero.
    """
    pts, dts = packets.pts, packets.dts
    keys = np.flatnonzero(packets.is_key)
    timed = np.flatnonzero(pts != NO_TIME)
    if not len(keys) or not len(timed):
        return None
    known_dts = dts[dts != NO_TIME]
    if (pts[timed[0] :] == NO_TIME).any() or (np.diff(known_dts) < 0).any():
        return None
    is_shown = ~packets.is_discarded & (pts != NO_TIME) & (pts >= pts[keys[0]])
    is_shown[: keys[0]] = False
    shown = np.flatnonzero(is_shown)
    shown = shown[np.argsort(pts[shown], kind="stable")]
    if not len(shown) or (np.diff(pts[shown]) == 0).any():
        return None
    return shown


def starts_and_seconds(track: Track, pts: NDArray[np.int64], last_duration: int, name: str) -> tuple[NDArray[np.float64], float]:
    """When frames with these rising time stamps appear, in seconds, and how long the video is. Raises VideoError (`bad_times`)."""
    unit = float(track.time_base)
    starts: NDArray[np.float64] = pts.astype(np.float64) * unit
    last = last_duration * unit
    if not 0 < last < ABSURD_SECONDS:
        last = float(np.median(np.diff(starts))) if len(starts) > 1 else seconds_per_frame(track, name)
    seconds = round(float(starts[-1] - starts[0]) + last, 6)
    if seconds > ABSURD_SECONDS:
        raise VideoError("bad_times", f"{name}: its time stamps say that it lasts {seconds:.3g} s; {REMUX}")
    return starts, seconds


def seconds_per_frame(track: Track, name: str) -> float:
    """The usual time from one frame to the next, for a track whose time stamps cannot be used. Raises VideoError (`bad_times`)."""
    dts = track.packets.dts[track.packets.dts != NO_TIME]
    steps = np.diff(dts)
    steps = steps[steps > 0]  # a file that was joined of others jumps back
    if len(steps):
        return float(np.median(steps)) * float(track.time_base)
    if track.rate:
        return float(1 / track.rate)
    raise VideoError("bad_times", f"{name}: it has neither usable time stamps nor a frame rate; {REMUX}")
