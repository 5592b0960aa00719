"""Opens a video file with PyAV so that no other file is read.

FFmpeg chooses a demuxer from the list below by the file's content. The list excludes demuxers that open other files (playlists, scripts,
image patterns) or render text. The only protocol is `fd`, which reads an open file.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import NoReturn

import av
from av.stream import Disposition

from reelnest.errors import VideoError
from reelnest.video.limits import MAX_FRAME_PIXELS, check_area

Opened = tuple[av.container.InputContainer, av.video.stream.VideoStream]

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,mjpeg,flv,asf,ogg,gif,h264,hevc,ivf,m4v,mxf,obu,dv"
OPTIONS = {"protocol_whitelist": "fd", "format_whitelist": FORMATS, "max_pixels": str(MAX_FRAME_PIXELS)}
UNPROBED = {"codec_whitelist": "none"}
"""Prevents FFmpeg from decoding the first frames, which takes most of the time to open a file."""
PICTURE_BRANDS = ("avif", "avis", "heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1", "miaf")
"""Kinds of MP4-like files that are for pictures."""
READ_ERRORS = (av.error.FFmpegError, IndexError)
"""PyAV raises IndexError for a stream that begins in the middle of a file."""
CONVERT = "convert it: ffmpeg -i IN out.mp4"
REMUX = "remux it: ffmpeg -i IN -c copy out.mp4"
REPAIR = f"copy it again, or {CONVERT}"


@contextlib.contextmanager
def open_stream(descriptor: int, name: str, *, is_probed: bool) -> Iterator[Opened]:
    """Opens the file, from its beginning, and its first video stream that is not a cover picture.

    With `is_probed`, FFmpeg decodes the first frames to find the frame size and times that the header lacks.
    Raises VideoError (`not_a_video`, `truncated`, `too_large`) if there is no such stream, or its frames are too large.
    """
    with _open(descriptor, name, OPTIONS if is_probed else OPTIONS | UNPROBED) as container:
        stream = _first_stream(container, name)
        codec = stream.codec_context
        if is_probed and not (codec.width and codec.height):
            _raise_for_size(descriptor, name)
        check_area(name, codec.width, codec.height)
        yield container, stream


def _open(descriptor: int, name: str, options: dict[str, str]) -> av.container.InputContainer:
    os.lseek(descriptor, 0, os.SEEK_SET)  # FFmpeg's copy of the descriptor shares its offset
    try:
        return av.open("fd:", options={**options, "fd": str(descriptor)})
    except av.error.ArgumentError as error:  # FFmpeg raises this for a known format that is not in FORMATS
        raise VideoError("not_a_video", f"{name}: not in a supported video format; if it is a video, {CONVERT}") from error
    except av.error.EOFError as error:
        raise VideoError("truncated", f"{name}: the file ends inside its header; copy it again") from error
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError("not_a_video", f"{name}: not a readable video; copy it again, or remove it") from error


def _first_stream(container: av.container.InputContainer, name: str) -> av.video.stream.VideoStream:
    streams = video_streams(container)
    if not streams:
        kinds = {"a cover picture" if stream.type == "video" else stream.type for stream in container.streams}
        raise VideoError("not_a_video", f"{name}: it contains no video, only {' and '.join(sorted(kinds)) or 'a header'}; remove it")
    stream = _picture_track(streams, name) if container.metadata.get("major_brand") in PICTURE_BRANDS else streams[0]
    codec = stream.codec_context
    if codec is None:
        raise VideoError("not_a_video", f"{name}: there is no decoder for its codec; {CONVERT}")
    codec.thread_count = 1
    codec.thread_type = "NONE"
    codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return stream


def _picture_track(streams: list[av.video.stream.VideoStream], name: str) -> av.video.stream.VideoStream:
    """Returns the animation of an AVIF or HEIC file, or else its main picture. Other pictures, tiles and transparency are streams too."""
    animations = [stream for stream in streams if stream.frames > 1]
    main = [stream for stream in streams if stream.disposition & Disposition.default]
    if not animations and len(main) != 1:
        raise VideoError("not_a_video", f"{name}: an AVIF or HEIC file with several pictures or tiles; {CONVERT}")
    return (animations or main)[0]


def video_streams(container: av.container.InputContainer) -> list[av.video.stream.VideoStream]:
    """Returns the video streams that are not cover pictures."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def packets(opened: Opened, name: str) -> "Iterator[av.Packet[av.VideoStream]]":
    """Yields the stream's packets that have a size. Raises VideoError (`damaged`) where the file cannot be read further."""
    container, stream = opened
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except READ_ERRORS as error:
        raise VideoError("damaged", f"{name}: its packets cannot be read ({summary(error)}); {REMUX}") from error


def _raise_for_size(descriptor: int, name: str) -> NoReturn:
    """Raises VideoError for a file whose frame size FFmpeg rejects as too large (the size is in its log), or cannot find."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines, contextlib.suppress(VideoError), _open(descriptor, name, OPTIONS):
            pass
    finally:
        av.logging.set_level(level)
    size = re.search(r"(\d+)x(\d+) exceeds specified max pixel", " ".join(text for _, _, text in lines))
    if size is not None:
        check_area(name, int(size[1]), int(size[2]))
    raise VideoError("not_a_video", f"{name}: it contains no frame size; its beginning may be missing")


def summary(error: Exception) -> str:
    """Returns a library's message without times, addresses and paths, so that reports are the same on every day and machine."""
    if isinstance(error, IndexError):
        return "a stream begins in the middle of the file"
    text = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
    lines = (text or type(error).__name__).splitlines()
    return re.sub(r"\[\d+:\d+:\d+\] \S+: |0x[0-9a-f]+", "", lines[0])[:200]
