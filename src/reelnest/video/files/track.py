"""Reads a container's video track: one pass over the packets, without seeking."""

import contextlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from reelnest.errors import VideoError
from reelnest.video.files.opening import Opened, open_stream, packets, video_streams
from reelnest.video.files.pictures import UPRIGHT, Orientation, frame_orientation
from reelnest.video.limits import Limits

NO_TIME = np.iinfo(np.int64).min
"""Value of a missing time stamp."""
TIMED_FORMATS = ("mov,", "matroska,")
"""MP4, QuickTime, Matroska and WebM: the header has the frame size, and each packet has its time."""
HIDDEN_PER_SHOWN = 4
"""Packets to read per allowed frame. A clip that was cut without re-encoding contains hidden packets from before the cut."""
VP8_SHOWN = 0x10
"""The bit of a VP8 packet's first byte that is unset for frames that are not displayed."""
H264_LENGTH_BYTE = 4
"""Index of the byte in H.264's container header (`avcC`) whose lowest two bits are the size of a NAL unit's length field, minus one."""
H264_SLICE, H264_IDR = 1, 5
"""NAL unit types: a picture that may refer to others, and one at which decoding restarts."""
H264_KIND, H264_IS_REFERENCE = 0x1F, 0x60
"""The bits of a NAL unit's first byte with its type, and those of which one is set if other pictures refer to it."""
CACHED_BYTES = 16_000_000
"""Size of the packets up to which they stay in memory between the two passes."""

PacketRow = tuple[int, int, int, bool, bool, bool, bool]
VideoPacket: TypeAlias = "av.Packet[av.VideoStream]"


@dataclass(frozen=True, eq=False)
class Packets:
    """The packets of the video in file order, (packets,) each. Times are in units of the track's `time_base`."""

    pts: NDArray[np.int64]
    """Presentation time of the packet's frame; NO_TIME if the container has none."""
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    is_restart: NDArray[np.bool_]
    """Key frames that no later frame refers back across. Containers also mark recovery points as key frames."""
    is_discarded: NDArray[np.bool_]
    """Decoded because other frames refer to it, but not displayed: outside of the cut of an edit list."""
    is_unreferenced: NDArray[np.bool_]
    """H.264 frames to which no other frame refers, as most B-frames."""

    def __len__(self) -> int:
        return len(self.pts)

    @cached_property
    def edit(self) -> NDArray[np.int64]:
        """How often the decoding times decreased up to each packet, as they do in joined files and between the parts of an edit list."""
        known = np.flatnonzero(self.dts != NO_TIME)
        edit = np.zeros(len(self), dtype=np.int64)
        edit[known[1:][np.diff(self.dts[known]) < 0]] = 1
        return edit.cumsum()


@dataclass(frozen=True)
class CachedPackets:
    """The packets of a small file, and their stream, which stays open to decode them."""

    stream: av.VideoStream
    packets: Sequence[VideoPacket]


@dataclass(frozen=True)
class Look:
    """What a decoded frame shows of how it is to be displayed."""

    orientation: Orientation
    aspect: Fraction | None
    """`Track.aspect` by the codec's header; None if it has none either."""


@dataclass(frozen=True, eq=False)
class Track:
    """The video track of a container."""

    format: str
    """FFmpeg's name of the demuxer, such as `mov,mp4,m4a,3gp,3g2,mj2`."""
    codec: str
    width: int
    height: int
    aspect: Fraction | None
    """Width of a pixel divided by its height; None if the container does not have it. Then the codec may have it (`Look`)."""
    time_base: Fraction
    """Seconds per unit of the time stamps."""
    rate: Fraction | None
    """Frames per second, guessed by FFmpeg."""
    zero_seconds: float | None
    """Time stamp at which players begin to count: that of the first frame or of the sound before it. None if unknown."""
    is_probed: bool
    """Whether FFmpeg must decode the first frames on opening (`open_stream`) to find these values."""
    streams: int
    """Number of video streams that are not cover pictures; this is the first."""
    packets: Packets
    cached: CachedPackets | None
    """None for large files, whose packets are read again."""


def read_track(descriptor: int, name: str, limits: Limits, resources: ExitStack) -> Track:
    """Reads every packet of the video. Raises VideoError if it is not a video, has no frames, or has too many or too large frames.

    `resources` closes what the track keeps open.
    """
    for is_probed in (False, True):
        with ExitStack() as opening:
            opened = opening.enter_context(open_stream(descriptor, name, is_probed=is_probed))
            container, stream = opened
            has_header = container.format.name.startswith(TIMED_FORMATS) and stream.codec_context.width and stream.codec_context.height
            if not is_probed and not has_header:
                continue
            track = _read(opened, name, limits, is_probed=is_probed)
            if not is_probed and (track.packets.pts == NO_TIME).any():
                continue
            if track.cached is not None:
                resources.push(opening.pop_all())
            return track
    raise AssertionError("unreachable: the second pass returns or raises")


def _read(opened: Opened, name: str, limits: Limits, *, is_probed: bool) -> Track:
    container, stream = opened
    codec = stream.codec_context
    rows, cached = _packet_rows(opened, name, limits)
    times = np.array([row[:3] for row in rows], dtype=np.int64)
    flags = np.array([row[3:] for row in rows], dtype=np.bool_)
    return Track(
        format=container.format.name,
        codec=codec.name,
        width=codec.width,
        height=codec.height,
        aspect=stream.sample_aspect_ratio or None,
        time_base=stream.time_base or Fraction(1),
        rate=stream.guessed_rate or stream.average_rate or None,
        zero_seconds=None if container.start_time is None else container.start_time / av.time_base,
        is_probed=is_probed,
        streams=len(video_streams(container)),
        packets=Packets(times[:, 0], times[:, 1], times[:, 2], flags[:, 0], flags[:, 1], flags[:, 2], flags[:, 3]),
        cached=None if cached is None else CachedPackets(stream, cached),
    )


def _packet_rows(opened: Opened, name: str, limits: Limits) -> "tuple[list[PacketRow], list[VideoPacket] | None]":
    """Returns the columns of `Packets`, one row per packet, and the packets; None if they take more than CACHED_BYTES."""
    context = opened[1].codec_context
    codec, header = context.name, context.extradata
    rows: list[PacketRow] = []
    cached: list[VideoPacket] = []
    size = 0
    for packet in packets(opened, name):
        if not rows and packet.has_sidedata("encryption_info"):
            raise VideoError("encrypted", f"{name}: its frames are encrypted, as by DRM; use a copy that is not")
        is_key = packet.is_keyframe
        is_hidden = codec == "vp8" and not memoryview(packet)[0] & VP8_SHOWN
        unit = _h264_picture(memoryview(packet), header) if codec == "h264" else None
        is_restart = is_key and (codec != "h264" or (unit is not None and unit & H264_KIND == H264_IDR))
        is_unreferenced = unit is not None and not unit & H264_IS_REFERENCE
        pts = NO_TIME if packet.pts is None else packet.pts
        dts = NO_TIME if packet.dts is None else packet.dts
        rows.append((pts, dts, packet.duration or 0, is_key, is_restart, packet.is_discard or is_hidden, is_unreferenced))
        size += packet.size
        if size <= CACHED_BYTES:
            cached.append(packet)
        else:
            cached.clear()
        if len(rows) > HIDDEN_PER_SHOWN * limits.frames:
            limits.check_frames(name, len(rows))
    if not rows:
        raise VideoError("no_frames", f"{name}: a video without frames")
    return rows, cached if size <= CACHED_BYTES else None


def _h264_picture(packet: memoryview, header: bytes | None) -> int | None:
    """Returns the first byte of the first NAL unit with a picture, in an H.264 packet of MP4 or Matroska; None for other framings."""
    if not header or header[0] != 1 or len(header) <= H264_LENGTH_BYTE:
        return None
    length_bytes = (header[H264_LENGTH_BYTE] & 3) + 1
    at = 0
    while at + length_bytes < len(packet):
        first = packet[at + length_bytes]
        if first & H264_KIND in (H264_SLICE, H264_IDR):
            return first
        at += length_bytes + int.from_bytes(packet[at : at + length_bytes], "big")
    return None


def first_look(descriptor: int, name: str, *, is_probed: bool) -> Look:
    """Returns the look of the first key frame; upright, without an aspect, if it cannot be decoded by itself."""
    with open_stream(descriptor, name, is_probed=is_probed) as opened, contextlib.suppress(av.error.FFmpegError):
        packet = next((packet for packet in packets(opened, name) if packet.is_keyframe), None)
        codec = opened[1].codec_context
        frames = [] if packet is None else codec.decode(packet) or codec.decode(None)
        if frames:
            return Look(frame_orientation(frames[0]), codec.sample_aspect_ratio or None)
    return Look(UPRIGHT, None)
