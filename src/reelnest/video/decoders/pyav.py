"""PyAV, in two passes over the packets and never with a seek, which lands wherever a container's index says.

`PyavByTime` finds each frame by its time stamp. The packets are read once for their times (`Source.track`), and once more to decode, for
each wanted frame, from the key frame before it. What the decoder gives is accepted for its time stamp alone; where it gives none of that
time, decoding starts 1, 2, 4, … key frames earlier.

`PyavInOrder` counts frames from the beginning, where time stamps cannot tell them apart: AVI whose frames are stored in another order than
shown, streams without a container, files that were joined of others. It decodes everything twice, to count and to take what is wanted.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reelnest.errors import VideoError
from reelnest.video.decoders import Unsuitable
from reelnest.video.files.opening import open_stream, summary
from reelnest.video.files.pictures import picture
from reelnest.video.files.presentation import seconds_per_frame, shown_packets, starts_and_seconds
from reelnest.video.files.source import Source
from reelnest.video.files.track import NO_TIME, Packets, Track

TIMED_FRACTION = 0.9
"""Where fewer frames come later than all before, time stamps are of no use, and frames are taken to follow at an even rate."""


class PyavByTime:
    """Reads whatever has a time stamp for each frame."""

    name = "pyav"
    order = 2

    def open(self, source: Source) -> "TimedVideo":
        """Raises Unsuitable where the time stamps do not say which frame is shown when, VideoError where the file is bad."""
        track = source.track
        shown = shown_packets(track.packets)
        if shown is None or _is_made_up(track):
            raise Unsuitable("its time stamps are missing, repeated or fall")
        source.limits.check_frames(source.name, len(shown))
        starts, seconds = starts_and_seconds(track, track.packets.pts[shown], int(track.packets.duration[shown[-1]]), source.name)
        source.limits.check_seconds(source.name, seconds)
        return TimedVideo(source, shown, starts, seconds)


class TimedVideo:
    """A video whose shown packets are known, in the order of their times."""

    def __init__(self, source: Source, shown: NDArray[np.int64], starts: NDArray[np.float64], seconds: float) -> None:
        self._source, self._shown = source, shown
        self.starts, self.seconds = starts, seconds

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Raises Unsuitable where the decoder gives no frame of a wanted time, VideoError where the file is damaged."""
        track = self._source.track
        wanted = {int(track.packets.pts[self._shown[index]]) for index in indices}
        run = _Run(self._source, wanted)
        try:
            for index in indices:
                position = int(self._shown[index])
                for start in _starting_points(track.packets, position):
                    if not run.covers(start):
                        run.close()
                        run = _Run(self._source, wanted)
                    frame = run.frame_at(int(track.packets.pts[position]), start)
                    if frame is not None:
                        break
                else:
                    raise Unsuitable("no frame is decoded at a time that the container names")
                yield picture(frame, track.aspect, self._source.name)
        finally:
            run.close()


class _Run:
    """One pass over the packets, in which some are decoded."""

    def __init__(self, source: Source, wanted: Collection[int]) -> None:
        """Frames of other times than the `wanted` ones are decoded only where others refer to them."""
        self._name = source.name
        self._wanted = wanted
        self._opened = ExitStack()
        container, stream = self._opened.enter_context(open_stream(source.address, source.name, is_probed=source.track.is_probed))
        self._packets = (packet for packet in container.demux(stream) if packet.size)
        self._codec = stream.codec_context
        self._next = 0
        """Position of the packet that is read next."""
        self._since: int | None = None
        """Position from which all packets were decoded; None before the first."""
        self._decoded: deque[av.VideoFrame] = deque()
        self._last = NO_TIME
        """Time stamp of the frame that was taken from `_decoded` last."""
        self._is_over = False

    def close(self) -> None:
        self._opened.close()

    def covers(self, start: int) -> bool:
        """Whether a frame can still be decoded from packet `start` on."""
        return start >= self._next or (self._since is not None and self._since <= start)

    def frame_at(self, pts: int, start: int) -> av.VideoFrame | None:
        """The frame of this time, decoded from packet `start` or one before it; None where the decoder passes over it."""
        if start >= self._next:
            self._skip_to(start)
        while True:
            while self._decoded:
                frame = self._decoded[0]
                if frame.pts is None:  # before time zero
                    self._decoded.popleft()
                    continue
                if frame.pts < self._last:
                    raise Unsuitable("its frames are decoded in another order than that of their time stamps")
                if frame.pts > pts:
                    return None
                self._last = frame.pts
                self._decoded.popleft()
                if frame.pts == pts:
                    return frame
            if self._is_over:
                return None
            self._decode_next()

    def _skip_to(self, start: int) -> None:
        while self._next < start:
            next(self._packets, None)
            self._next += 1
        self._codec.flush_buffers()
        self._decoded.clear()
        self._since, self._last = start, NO_TIME

    def _decode_next(self) -> None:
        try:
            packet = next(self._packets, None)
            self._next += 1
            self._is_over = packet is None
            if packet is not None and packet.is_corrupt:
                raise VideoError("damaged", f"{self._name}: bytes are missing in it; copy it again")
            if packet is not None:
                self._codec.skip_frame = "DEFAULT" if packet.pts in self._wanted else "NONREF"
            self._decoded.extend(self._codec.decode(packet))
        except av.error.EOFError:
            self._is_over = True
        except av.error.FFmpegError as error:
            raise VideoError("damaged", f"{self._name}: its header can be read, but not its frames ({summary(error)})") from error


def _starting_points(packets: Packets, position: int) -> Iterator[int]:
    """Key packets from which the packet at `position` may be decoded: the last before it in file and time, then 1, 2, 4, … earlier."""
    keys = np.flatnonzero(packets.is_key[: position + 1])
    keys = keys[packets.pts[keys] <= packets.pts[position]]  # a missing time is the lowest number
    at, step = len(keys) - 1, 1
    while at > 0:
        yield int(keys[at])
        at, step = at - step, step * 2
    if len(keys):
        yield int(keys[0])


class PyavInOrder:
    """Reads whatever FFmpeg decodes."""

    name = "pyav"
    order = 3

    def open(self, source: Source) -> "CountedVideo":
        """Raises VideoError where the file is bad."""
        times: list[int] = []
        guess = TimeGuess()
        step = seconds_per_frame(source.track, source.name)
        for frame in _decode(source):
            time = guess.next(None if _is_made_up(source.track) else frame.pts, frame.dts)
            if time == NO_TIME and times and times[-1] > NO_TIME:  # the last ones, in AVI
                time = times[-1] + round(step / source.track.time_base)
            times.append(time)
            source.limits.check_frames(source.name, len(times))
        if not times:
            raise VideoError("no_frames", f"{source.name}: none of its frames can be decoded")
        pts = np.array(times, dtype=np.int64)
        latest = np.maximum.accumulate(pts)
        numbers = np.flatnonzero(np.append(pts[0] > NO_TIME, latest[1:] > latest[:-1]))  # later than all before
        if len(numbers) >= TIMED_FRACTION * len(times):
            starts, seconds = starts_and_seconds(source.track, pts[numbers], 0, source.name)
        else:
            numbers = np.arange(len(times))
            starts, seconds = numbers.astype(np.float64) * step, round(len(times) * step, 6)
        source.limits.check_seconds(source.name, seconds)
        return CountedVideo(source, numbers, starts, seconds)


class CountedVideo:
    """A video whose frames are known by their number in the order of decoding."""

    def __init__(self, source: Source, numbers: NDArray[np.int64], starts: NDArray[np.float64], seconds: float) -> None:
        self._source, self._numbers = source, numbers
        self.starts, self.seconds = starts, seconds

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Raises VideoError where the file is damaged."""
        decoded = _decode(self._source)
        following = 0
        for index in indices:
            number = int(self._numbers[index])
            frame = next(islice(decoded, number - following, None))
            following = number + 1
            yield picture(frame, self._source.track.aspect, self._source.name)


def _is_made_up(track: Track) -> bool:
    """Whether the times at which frames are shown are FFmpeg's guess: AVI has none, and where these codecs are in it, it guesses wrong."""
    return track.format == "avi" and track.codec in ("h264", "hevc")


class TimeGuess:
    """When decoded frames are shown, from time stamps of which some are missing or wrong: FFmpeg's `guess_correct_pts`.

    A frame has the time at which it is shown, and that of the packet from which it came; the kind that fell less often so far is taken.
    """

    def __init__(self) -> None:
        self._last_pts = self._last_dts = NO_TIME
        self._faulty_pts = self._faulty_dts = 0

    def next(self, pts: int | None, dts: int | None) -> int:
        """The next frame's time; NO_TIME where it has none."""
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
    with open_stream(source.address, source.name, is_probed=source.track.is_probed) as (container, stream):
        try:
            yield from container.decode(stream)
        except av.error.FFmpegError as error:
            raise VideoError("damaged", f"{source.name}: its header can be read, but not its frames ({summary(error)})") from error


DECODERS = (PyavByTime(), PyavInOrder())
