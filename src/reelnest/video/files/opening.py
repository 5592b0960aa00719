"""Opening a video file with PyAV so that nothing but that file is read.

FFmpeg chooses the demuxer by the file's content from the list below. Demuxers that open other files (playlists, scripts, patterns of
images) or make a picture of any text are not on it, and no protocol but `file` is.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import NoReturn

import av
from av.stream import Disposition

from reelnest.errors import VideoError
from reelnest.video.limits import MAX_FRAME_PIXELS, check_area

Opened = tuple[av.container.InputContainer, av.video.stream.VideoStream]

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,ivf,m4v,mxf,obu,dv"
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_FRAME_PIXELS)}
UNPROBED = {"codec_whitelist": "none"}
"""Keeps FFmpeg from decoding the first frames, which takes longer than all else of opening a file."""
CONVERT = "convert it: ffmpeg -i IN out.mp4"
REMUX = "write it anew: ffmpeg -i IN -c copy out.mp4"


@contextlib.contextmanager
def open_stream(address: str, name: str, *, is_probed: bool) -> Iterator[Opened]:
    """Opens the file and its first video stream that is no cover picture.

    `is_probed` has FFmpeg decode the first frames to learn what the header does not say: the frames' size, and times that are missing.
    Raises VideoError (`not_a_video`, `truncated`, `too_large`) where there is no such stream, or none of a size that is allowed.
    """
    with _open(address, name, OPTIONS if is_probed else OPTIONS | UNPROBED) as container:
        stream = _first_stream(container, name)
        codec = stream.codec_context
        if is_probed and not (codec.width and codec.height):
            _raise_for_size(address, name)
        check_area(name, codec.width, codec.height)
        yield container, stream


def _open(address: str, name: str, options: dict[str, str]) -> av.container.InputContainer:
    try:
        return av.open(address, options=dict(options))
    except av.error.ArgumentError as error:  # FFmpeg's answer where it knows the format, and the list above does not have it
        raise VideoError("not_a_video", f"{name}: of a kind that is not read as a video; {CONVERT}") from error
    except av.error.EOFError as error:
        raise VideoError("truncated", f"{name}: it ends in the middle of its header; copy it again") from error
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError("not_a_video", f"{name}: no video that can be opened") from error


def _first_stream(container: av.container.InputContainer, name: str) -> av.video.stream.VideoStream:
    streams = video_streams(container)
    if not streams:
        found = "no video in it, only " + (", ".join(sorted({stream.type for stream in container.streams})) or "a header")
        raise VideoError("not_a_video", f"{name}: {found}")
    codec = streams[0].codec_context
    if codec is None:
        raise VideoError("not_a_video", f"{name}: coded in a way for which there is no decoder here; {CONVERT}")
    codec.thread_count = 1
    codec.thread_type = "NONE"
    codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return streams[0]


def video_streams(container: av.container.InputContainer) -> list[av.video.stream.VideoStream]:
    """The video streams that are no cover picture."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _raise_for_size(address: str, name: str) -> NoReturn:
    """Raises VideoError for a file whose frames have no size that FFmpeg takes: too large (its log says how large), or none at all."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines, contextlib.suppress(av.error.FFmpegError), av.open(address, options=dict(OPTIONS)):
            pass
    finally:
        av.logging.set_level(level)
    found = re.search(r"(\d+)x(\d+) exceeds specified max pixel", " ".join(text for _, _, text in lines))
    if found is not None:
        check_area(name, int(found[1]), int(found[2]))
    raise VideoError("not_a_video", f"{name}: nothing in it says how large its frames are; its beginning may be missing")


def summary(error: Exception) -> str:
    """A library's message without times, places and stack, so that the same video gives the same report on every day and machine."""
    text = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
    lines = (text or type(error).__name__).splitlines()
    return re.sub(r"\[\d+:\d+:\d+\] \S+: |0x[0-9a-f]+|/proc/self/fd/\d+", "", lines[0])[:200]
