"""decord, for the files that it reads correctly.

decord ignores edit lists, counts frames that are not displayed and reads missing time stamps as numbers, without an error. So its frame
times are compared with the container's, in less than a millisecond per clip. Where they differ, another decoder reads the file.

decord decodes each frame from a key frame to the requested one. PyAV skips those to which no other frame refers: of H.264 with B-frames,
half. So `auto` prefers PyAV for these, and decord for all others.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import decord
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reelnest.video.decoders import Unsuitable
from reelnest.video.files.opening import summary
from reelnest.video.files.pictures import UPRIGHT, square_pixel_width
from reelnest.video.files.source import Source
from reelnest.video.files.track import NO_TIME, TIMED_FORMATS, Packets, Track
from reelnest.video.limits import check_area

CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mjpeg", "prores")
START_TOLERANCE_SECONDS = 0.002
SLOW_SHARE = 0.2
"""Share of frames to which no other frame refers, from which on PyAV is faster."""
ERRORS = (decord.DECORDError, RuntimeError, StopIteration, IndexError, AssertionError)


@dataclass(frozen=True)
class DecordDecoder:
    """Reads ordinary MP4, QuickTime, Matroska and WebM."""

    priority: int
    skips_slow_files: bool
    """Whether it leaves files to PyAV that PyAV reads in less time."""
    name: ClassVar[str] = "decord"

    def open(self, source: Source) -> "DecordVideo":
        """Raises Unsuitable if decord could read wrong frames, VideoError if the file is bad."""
        if self.skips_slow_files and source.track.packets.is_unreferenced.mean() > SLOW_SHARE:
            raise Unsuitable("many of its frames need not be decoded, but decord decodes them")
        problem = _problem(source.track)
        if problem is None and source.look.orientation != UPRIGHT:
            problem = "its frames are rotated or mirrored"
        if problem is None and square_pixel_width(source.track.width, source.aspect) != source.track.width:
            problem = "its pixels are not square"
        if problem is not None:
            raise Unsuitable(problem)
        decord.logging.set_level(decord.logging.QUIET)
        os.dup2(source.descriptor, 0)  # what FFmpeg reads as `fd:` without options, which decord cannot pass
        try:
            reader = decord.VideoReader("fd:", ctx=decord.cpu(0), num_threads=1)
            total = len(reader)
            times = reader.get_frame_timestamp(range(total)).astype(np.float64)  # (frames, start and end)
        except ERRORS as error:
            raise Unsuitable(f"decord cannot open it ({summary(error)})") from error
        starts, seconds = times[:, 0], round(float(times[-1, 1] - times[0, 0]), 6)  # decord's times are float32
        expected = np.sort(source.track.packets.pts) * float(source.track.time_base)
        if len(starts) != len(expected) or np.abs(starts - expected).max() > START_TOLERANCE_SECONDS or not seconds > 0:
            raise Unsuitable("decord's frame count or frame times differ from the container's")
        source.limits.check_frames(source.name, total)
        source.limits.check_seconds(source.name, seconds)
        return DecordVideo(reader, starts, seconds, source.name)


class DecordVideo:
    """A video that decord has opened."""

    def __init__(self, reader: decord.VideoReader, starts: NDArray[np.float64], seconds: float, name: str) -> None:
        self._reader, self._name = reader, name
        self.starts, self.seconds = starts, seconds

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Decodes frames one at a time, because a batch would hold all frames at full size."""
        for index in indices:
            try:
                decoded = self._reader[index].asnumpy()
            except ERRORS as error:
                raise Unsuitable(f"decord cannot decode its frames ({summary(error)})") from error
            height, width = decoded.shape[:2]
            check_area(self._name, width, height)
            # decord derives the channel count from the bytes of a padded line, so at widths such as 48 and 96 padding appears as channels.
            yield Image.fromarray(decoded.reshape(height, -1)[:, : width * 3].reshape(height, width, 3))


def _problem(track: Track) -> str | None:
    """Returns why decord could read wrong frames; None if it is known to read the right ones."""
    packets = track.packets
    checks = (
        (not track.format.startswith(TIMED_FORMATS), f"decord is not exact in the format {track.format}"),
        (track.codec not in CODECS, f"decord is not exact for the codec {track.codec}"),
        (track.streams > 1, "it has several video streams"),
        (bool(packets.is_discarded.any()), "some of its frames are hidden, as after a cut without re-encoding"),
        (bool((packets.pts == NO_TIME).any()), "some of its time stamps are missing"),
        (bool((packets.pts < 0).any()), "some of its time stamps are negative"),
        (len(np.unique(packets.pts)) < len(packets), "several frames have one time stamp"),
        (not packets.is_key[0], "it does not begin with a key frame"),
        (_has_open_groups(packets), "frames refer to frames before the last key frame, where decord starts"),
    )
    return next((text for holds, text in checks if holds), None)


def _has_open_groups(packets: Packets) -> bool:
    """Returns whether some frames refer to frames before their key frame: open groups of pictures, or a gradual refresh."""
    if not packets.is_restart[packets.is_key].all():
        return True
    earliest_later = np.minimum.accumulate(packets.pts[::-1])[::-1]  # the earliest time from each packet to the end of the file
    return bool((earliest_later < packets.pts)[packets.is_key].any())


DECODERS = (DecordDecoder(priority=1, skips_slow_files=True), DecordDecoder(priority=4, skips_slow_files=False))
