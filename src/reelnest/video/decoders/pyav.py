"""PyAV, in two passes over the packets. It never seeks, because container indices are unreliable.

`PyavByTime` finds each frame by its time stamp. The first pass reads the packets' times (`Source.track`). The second pass decodes each
requested frame from the key frame before it. A decoded frame is accepted only if its time stamp matches; otherwise decoding starts
1, 2, 4, … key frames earlier.

`PyavInOrder` counts frames from the beginning, for files without usable time stamps: AVI with reordered frames, raw streams, concatenated
files. It decodes everything twice: to count the frames, and to return the requested ones.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reelnest.errors import VideoError
from reelnest.video.decoders import Unsuitable
from reelnest.video.files.opening import READ_ERRORS, REMUX, REPAIR, open_stream, packets, summary
from reelnest.video.files.pictures import picture
from reelnest.video.files.presentation import displayed_packets, has_edits, is_absurd, seconds_per_frame, starts_and_seconds
from reelnest.video.files.source import Source
from reelnest.video.files.track import NO_TIME, Packets, Track, VideoPacket

TIMED_FRACTION = 0.9
"""If fewer of the frames with a time have a later time than all before them, time stamps are ignored and a constant rate is assumed."""
LEAST_TIMED_FRACTION = 0.5
"""The same if fewer frames have a time. Otherwise frames without one are not displayed: their times are before zero."""

GUESSED_WRONGLY = {"avi": ("h264", "hevc"), "asf": ("h264", "hevc", "mpeg1video", "mpeg2video")}
"""Codecs by format; see `_has_guessed_times`."""


class PyavByTime:
    """Reads files with a time stamp for each frame."""

    name = "pyav"
    priority = 2

    def open(self, source: Source) -> "TimedVideo":
        """Raises Unsuitable if the time stamps do not order the frames, VideoError if the file is bad."""
        track = source.track
        displayed = displayed_packets(track)
        if displayed is None or _has_guessed_times(track):
            raise Unsuitable("its time stamps are missing, repeated or decreasing")
        source.limits.check_frames(source.name, len(displayed))
        last_duration = int(track.packets.duration[displayed[-1]])
        starts, seconds = starts_and_seconds(track, track.packets.pts[displayed], last_duration, source.name)
        source.limits.check_seconds(source.name, seconds)
        return TimedVideo(source, displayed, starts, seconds)


class TimedVideo:
    """A video with known displayed packets, in the order of their times."""

    def __init__(self, source: Source, displayed: NDArray[np.int64], starts: NDArray[np.float64], seconds: float) -> None:
        self._source, self._displayed = source, displayed
        self.starts, self.seconds = starts, seconds

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Raises Unsuitable if the decoder returns no frame for a requested time, VideoError if the file is damaged."""
        track = self._source.track
        requested = self._displayed[list(indices)].tolist()
        times = {pts: packet for packet, pts in zip(requested, track.packets.pts[requested].tolist(), strict=True)}
        keys = np.flatnonzero(track.packets.is_key)
        run = _Run(self._source, times.keys())
        try:
            for pts, packet in times.items():
                for start in _starting_points(track.packets, keys, packet):
                    if not run.covers(start):
                        run.close()
                        run = _Run(self._source, times.keys())
                    frame = run.frame_at(pts, start)
                    if frame is not None:
                        break
                else:
                    raise Unsuitable("the decoder returns no frame for one of the container's time stamps")
                yield picture(frame, track.aspect or run.aspect, self._source.name)
        finally:
            run.close()


class _Run:
    """One pass over the packets that decodes some of them."""

    def __init__(self, source: Source, requested: Collection[int]) -> None:
        """`requested` are time stamps. Other frames are decoded only if frames refer to them."""
        self._name = source.name
        self._edit = source.track.packets.edit
        self._requested = requested
        self._opened = ExitStack()
        cached = source.track.cached
        if cached is not None:
            self._packets: Iterator[VideoPacket] = iter(cached.packets)
            self._codec = cached.stream.codec_context
        else:
            opened = self._opened.enter_context(open_stream(source.descriptor, source.name, is_probed=source.track.is_probed))
            self._packets = packets(opened, source.name)
            self._codec = opened[1].codec_context
        self._next = 0
        """Index of the packet to read next."""
        self._since: int | None = None
        """Index of the packet from which on all were decoded; None before the first."""
        self._decoded: deque[av.VideoFrame] = deque()
        self._last = NO_TIME
        """Time stamp of the last frame removed from `_decoded`."""
        self._is_over = False

    def close(self) -> None:
        self._opened.close()

    @property
    def aspect(self) -> Fraction | None:
        """`Track.aspect` by the codec's header, which is known once a frame is decoded."""
        return self._codec.sample_aspect_ratio or None

    def covers(self, start: int) -> bool:
        """Returns whether this pass can still decode from packet `start` on."""
        return start >= self._next or (self._since is not None and self._since <= start and self._edit[self._since] == self._edit[start])

    def frame_at(self, pts: int, start: int) -> av.VideoFrame | None:
        """Returns the frame with this time stamp, decoded from packet `start` or earlier; None if the decoder skips it."""
        if start >= self._next:
            self._skip_to(start)
        while True:
            while self._decoded:
                frame = self._decoded[0]
                time = frame.pts
                if time is None:  # before time zero
                    self._decoded.popleft()
                    continue
                if time < self._last:
                    raise Unsuitable("its frames are not decoded in the order of their time stamps")
                if time > pts:
                    return None
                self._last = time
                self._decoded.popleft()
                if time == pts:
                    return frame
            if self._is_over:
                return None
            self._decode_next()

    def _next_packet(self) -> "VideoPacket | None":
        self._next += 1
        return next(self._packets, None)

    def _skip_to(self, start: int) -> None:
        while self._next < start:
            self._next_packet()
        self._codec.flush_buffers()
        self._decoded.clear()
        self._since, self._last, self._is_over = start, NO_TIME, False

    def _decode_next(self) -> None:
        """Decodes packets up to one that gives frames. Ends with the edit, because frames of the next one refer to other frames."""
        codec, requested, edit = self._codec, self._requested, self._edit
        try:
            while not self._decoded and not self._is_over:
                is_edit_over = self._since is not None and self._next < len(edit) and edit[self._next] != edit[self._since]
                packet = None if is_edit_over else self._next_packet()
                if packet is None:
                    self._is_over = True
                elif packet.is_corrupt:
                    raise VideoError("damaged", f"{self._name}: bytes are missing; copy it again, or if files were joined, {REMUX}")
                else:
                    codec.skip_frame = "DEFAULT" if packet.pts in requested else "NONREF"
                self._decoded.extend(codec.decode(packet))
        except av.error.EOFError:
            self._is_over = True
        except av.error.FFmpegError as error:
            raise _damaged(self._name, error) from error


def _starting_points(packets: Packets, keys: NDArray[np.int64], index: int) -> Iterator[int]:
    """Yields the key packets from which packet `index` may be decoded: the last before it in file and time, then 1, 2, 4, … earlier."""
    earlier = keys[: np.searchsorted(keys, index, side="right")]
    earlier = earlier[packets.edit[earlier] == packets.edit[index]]
    earlier = earlier[packets.pts[earlier] <= packets.pts[index]]  # a missing time is the lowest number
    at, step = len(earlier) - 1, 1
    while at > 0:
        yield int(earlier[at])
        at, step = at - step, step * 2
    if len(earlier):
        yield int(earlier[0])


class PyavInOrder:
    """Reads all files that FFmpeg decodes."""

    name = "pyav"
    priority = 3

    def open(self, source: Source) -> "CountedVideo":
        """Raises Unsuitable if it could give wrong frames, VideoError if the file is bad."""
        if has_edits(source.track):
            raise Unsuitable("its edit list shows frames without the frames that they refer to")
        times: list[int] = []
        guess = TimeGuess()
        has_guessed_times = _has_guessed_times(source.track)
        step = seconds_per_frame(source.track, source.name)
        for frame in _decode(source):
            pts, dts = (None if is_absurd(time, source.track) else time for time in (frame.pts, frame.dts))
            time = guess.next(None if has_guessed_times else pts, dts)
            if time == NO_TIME and times and times[-1] > NO_TIME:  # the last frames of an AVI
                time = times[-1] + round(step / source.track.time_base)
            times.append(time)
            source.limits.check_frames(source.name, len(times))
        if not times:
            raise VideoError("no_frames", f"{source.name}: none of its frames can be decoded")
        stamps = np.array(times, dtype=np.int64)
        latest = np.maximum.accumulate(stamps)
        numbers = np.flatnonzero(np.append(stamps[0] > NO_TIME, latest[1:] > latest[:-1]))  # later than all before
        timed = np.count_nonzero(stamps > NO_TIME)
        if len(numbers) >= TIMED_FRACTION * timed and timed >= LEAST_TIMED_FRACTION * len(times):
            starts, seconds = starts_and_seconds(source.track, stamps[numbers], 0, source.name)
        else:
            numbers = np.arange(len(times))
            starts, seconds = numbers.astype(np.float64) * step, round(len(times) * step, 6)
        source.limits.check_seconds(source.name, seconds)
        return CountedVideo(source, numbers, starts, seconds)


class CountedVideo:
    """A video whose frames are identified by their number in decoding order."""

    def __init__(self, source: Source, numbers: NDArray[np.int64], starts: NDArray[np.float64], seconds: float) -> None:
        self._source, self._numbers = source, numbers
        self.starts, self.seconds = starts, seconds

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Raises VideoError if the file is damaged."""
        decoded = _decode(self._source)
        following = 0
        for index in indices:
            number = int(self._numbers[index])
            frame = next(islice(decoded, number - following, None))
            following = number + 1
            yield picture(frame, self._source.aspect, self._source.name)


def _has_guessed_times(track: Track) -> bool:
    """Returns whether FFmpeg guesses the presentation times, wrongly: the format has decoding times only, and the codec reorders frames."""
    return track.codec in GUESSED_WRONGLY.get(track.format, ())


class TimeGuess:
    """Presentation times of decoded frames when some time stamps are missing or wrong: FFmpeg's `guess_correct_pts`.

    A frame has its own time stamp (pts) and its packet's (dts). The kind that decreased less often so far is used.
    """

    def __init__(self) -> None:
        self._last_pts = self._last_dts = NO_TIME
        self._faulty_pts = self._faulty_dts = 0

    def next(self, pts: int | None, dts: int | None) -> int:
        """Returns the next frame's time; NO_TIME if it has none."""
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts):
            return pts
        return NO_TIME if dts is None else dts


def _decode(source: Source) -> Iterator[av.VideoFrame]:
    with open_stream(source.descriptor, source.name, is_probed=source.track.is_probed) as (container, stream):
        try:
            yield from container.decode(stream)
        except READ_ERRORS as error:
            raise _damaged(source.name, error) from error


def _damaged(name: str, error: Exception) -> VideoError:
    return VideoError("damaged", f"{name}: its header is readable, but its frames are not ({summary(error)}); {REPAIR}")


DECODERS = (PyavByTime(), PyavInOrder())
