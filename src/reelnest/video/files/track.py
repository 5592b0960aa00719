"""Reads a container's video track: one pass over the packets, without seeking."""

import contextlib
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from reelnest.errors import VideoError
from reelnest.video.files.opening import REMUX, Opened, open_stream, summary, video_streams
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

    def __len__(self) -> int:
        return len(self.pts)


@dataclass(frozen=True, eq=False)
class Track:
    """The video track of a container."""

    format: str
    """FFmpeg's name of the demuxer, such as `mov,mp4,m4a,3gp,3g2,mj2`."""
    codec: str
    width: int
    height: int
    aspect: Fraction
    """Width of a pixel divided by its height."""
    time_base: Fraction
    """Seconds per unit of the time stamps."""
    rate: Fraction | None
    """Frames per second, guessed by FFmpeg."""
    is_probed: bool
    """Whether FFmpeg must decode the first frames on opening (`open_stream`) to find these values."""
    streams: int
    """Number of video streams that are not cover pictures; this is the first."""
    packets: Packets


def read_track(address: str, name: str, limits: Limits) -> Track:
    """Reads every packet of the video. Raises VideoError if it is not a video, has no frames, or has too many or too large frames."""
    with open_stream(address, name, is_probed=False) as opened:
        container, stream = opened
        if container.format.name.startswith(TIMED_FORMATS) and stream.codec_context.width and stream.codec_context.height:
            track = _read(opened, name, limits, is_probed=False)
            if not (track.packets.pts == NO_TIME).any():
                return track
    with open_stream(address, name, is_probed=True) as opened:
        return _read(opened, name, limits, is_probed=True)


def _read(opened: Opened, name: str, limits: Limits, *, is_probed: bool) -> Track:
    container, stream = opened
    codec = stream.codec_context
    rows = _packet_rows(opened, name, limits)
    times = np.array([row[:3] for row in rows], dtype=np.int64)
    flags = np.array([row[3:] for row in rows], dtype=np.bool_)
    return Track(
        format=container.format.name,
        codec=codec.name,
        width=codec.width,
        height=codec.height,
        aspect=stream.sample_aspect_ratio or Fraction(1),
        time_base=stream.time_base or Fraction(1),
        rate=stream.guessed_rate or stream.average_rate or None,
        is_probed=is_probed,
        streams=len(video_streams(container)),
        packets=Packets(times[:, 0], times[:, 1], times[:, 2], flags[:, 0], flags[:, 1], flags[:, 2]),
    )


def _packet_rows(opened: Opened, name: str, limits: Limits) -> list[tuple[int, int, int, bool, bool, bool]]:
    """The columns of `Packets`, one row per packet."""
    container, stream = opened
    codec = stream.codec_context
    rows = []
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            is_hidden = codec.name == "vp8" and not memoryview(packet)[0] & VP8_SHOWN
            is_restart = packet.is_keyframe and (codec.name != "h264" or _has_idr(memoryview(packet), codec.extradata))
            pts = NO_TIME if packet.pts is None else packet.pts
            dts = NO_TIME if packet.dts is None else packet.dts
            rows.append((pts, dts, packet.duration or 0, packet.is_keyframe, is_restart, packet.is_discard or is_hidden))
            if len(rows) > HIDDEN_PER_SHOWN * limits.frames:
                limits.check_frames(name, len(rows))
    except av.error.FFmpegError as error:
        raise VideoError("damaged", f"{name}: its packets cannot be read ({summary(error)}); {REMUX}") from error
    if not rows:
        raise VideoError("no_frames", f"{name}: a video without frames")
    return rows


def _has_idr(packet: memoryview, header: bytes | None) -> bool:
    """Whether an H.264 packet of MP4 or Matroska contains an instantaneous decoder refresh; False for other framings."""
    if not header or header[0] != 1 or len(header) <= H264_LENGTH_BYTE:
        return False
    length_bytes = (header[H264_LENGTH_BYTE] & 3) + 1
    at = 0
    while at + length_bytes < len(packet):
        kind = packet[at + length_bytes] & 0x1F
        if kind in (H264_SLICE, H264_IDR):
            return kind == H264_IDR
        at += length_bytes + int.from_bytes(packet[at : at + length_bytes], "big")
    return False


def first_orientation(address: str, name: str, *, is_probed: bool) -> Orientation:
    """Orientation of the first key frame; upright if it cannot be decoded by itself."""
    with open_stream(address, name, is_probed=is_probed) as (container, stream), contextlib.suppress(av.error.FFmpegError):
        packet = next((packet for packet in container.demux(stream) if packet.size and packet.is_keyframe), None)
        frames = [] if packet is None else stream.codec_context.decode(packet) or stream.codec_context.decode(None)
        if frames:
            return frame_orientation(frames[0])
    return UPRIGHT
