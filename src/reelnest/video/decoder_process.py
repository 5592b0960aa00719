"""The process that decodes: `python -m reelnest.video.decoder_process PARENT_PID`. Only `decoder.py` starts it and talks to it.

Videos come from strangers, and a decoder is a million lines of C: here it may hang, crash or eat memory, and costs one video.

A request is a line of JSON on stdin, an answer a line of JSON on stdout, followed by as many raw bytes as it says. The imports are kept
few, since a process is started anew after each crash or time-out.
"""

import contextlib
import ctypes
import json
import os
import queue
import re
import resource
import signal
import stat
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import decord
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from reelnest.errors import VideoError
from reelnest.video import containers, sampling
from reelnest.video.patches import check_aspect_ratio, smart_resize, to_patches
from reelnest.video.vision_spec import VisionSpec

MAX_FRAME_PIXELS = 8192 * 8192
MEMORY_BYTES = 8 * 1024**3
"""Address space of this process. A video that needs more ends it, and not the machine."""
INSPECTED_FRAMES = 4
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
PR_SET_PDEATHSIG = 1

Pixels = NDArray[np.uint8]


class _Video:
    """An opened video: when its frames appear, and a way to decode one of them."""

    def __init__(self, starts: NDArray[np.float64], seconds: float, frame: Callable[[int], Image.Image]) -> None:
        self.starts = starts
        self.seconds = seconds
        self.frame = frame


def main() -> None:
    """Answers requests until stdin ends."""
    _die_with_parent(int(sys.argv[1]))
    # A library that prints must not garble the answers: they get a descriptor of their own, and stdout becomes stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    decord.logging.set_level(decord.logging.QUIET)
    warnings.simplefilter("ignore")  # Pillow's remarks on odd image files; what matters is raised
    Image.MAX_IMAGE_PIXELS = MAX_FRAME_PIXELS
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    _answer(answers, {"ready": True})
    while True:
        request = json.loads(requests.get())
        try:
            header, payload = _serve(request)
        except VideoError as error:
            header, payload = {"reason": error.reason, "text": str(error)}, b""
        except MemoryError:
            header, payload = {"reason": "too_large", "text": f"{Path(request['files'][0]).name}: decoding it takes too much memory"}, b""
        _answer(answers, {**header, "bytes": len(payload)}, payload)


def _listen(requests: "queue.SimpleQueue[bytes]") -> None:
    """Reads stdin in a thread of its own, so that a parent that is gone is noticed in the middle of a video too."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        # The kernel's help for the case that somebody else (a forked child of the parent) keeps our stdin open.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _answer(answers: BinaryIO, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    answers.write(json.dumps(header).encode("ascii") + b"\n")
    answers.write(payload)
    answers.flush()


def _serve(request: dict[str, Any]) -> tuple[dict[str, Any], bytes | memoryview]:
    files = [Path(name) for name in request["files"]]
    limits = request["limits"]
    _check_files(files, limits["megabytes"])
    video = _open_images(files, limits) if len(files) > 1 or _is_image(files[0]) else _open_video(files[0], limits)
    try:
        if request["do"] == "inspect":
            return _inspect(video), b""
        return _frames(video, request["settings"], VisionSpec.of(request["vision"]))
    except (decord.DECORDError, RuntimeError, StopIteration, IndexError) as error:
        raise VideoError("damaged", f"{files[0].name}: its header can be read, but not its frames ({_summary(error)})") from error
    except ValueError as error:
        raise VideoError("bad_shape", f"{files[0].name}: {error}") from error


def _check_files(files: list[Path], megabytes: float) -> None:
    size = 0
    for file in files:
        try:
            found = file.stat()
        except OSError as error:
            raise VideoError("missing", f"{file.name}: cannot be opened ({error.strerror})") from error
        if not stat.S_ISREG(found.st_mode):
            raise VideoError("not_a_video", f"{file.name}: no regular file")
        if found.st_size == 0:
            raise VideoError("empty", f"{file.name}: an empty file")
        size += found.st_size
    if size > megabytes * 1e6:
        raise VideoError("too_large", f"{files[0].name}: {size / 1e6:.1f} MB; at most {megabytes:g} are allowed")


def _inspect(video: _Video) -> dict[str, Any]:
    total = len(video.starts)
    for index in np.unique(np.linspace(0, total - 1, INSPECTED_FRAMES).astype(int)):
        image = video.frame(int(index))
    check_aspect_ratio(image.height, image.width)
    return {"frames": total, "seconds": video.seconds, "fps": total / video.seconds, "width": image.width, "height": image.height}


def _frames(video: _Video, settings: dict[str, Any], vision: VisionSpec) -> tuple[dict[str, Any], memoryview]:
    span = vision.temporal_patch_size
    clip = sampling.Clip(video.starts, video.seconds, span)
    indices = sampling.FRAME_SAMPLERS[settings["sampling"]].choose(clip, settings["frames"], settings["fps"])
    kept: list[Pixels] = []
    height = width = 0
    last, pixels = -1, None
    for index in indices:
        if index != last or pixels is None:
            image = video.frame(int(index))
            if not kept:
                limits = settings["min_pixels"], settings["max_pixels"]
                height, width = smart_resize(image.height, image.width, *limits, vision.factor)
            # One at a time: a batch of large frames would hold them all before any is made small.
            pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        kept.append(pixels)
        last = int(index)
    rows, grid = to_patches(np.stack(kept), vision)
    header = {"grid_thw": grid.tolist(), "seconds_per_grid": sampling.seconds_per_grid(len(indices), video.seconds, span)}
    return header, np.ascontiguousarray(rows).data.cast("B")


def _open_video(file: Path, limits: dict[str, Any]) -> _Video:
    with file.open("rb") as raw:
        if containers.is_playlist(raw):
            raise VideoError("not_a_video", f"{file.name}: a playlist that names other files; list the videos themselves")
        announced, size = containers.announced_size(raw), file.stat().st_size
    if announced is not None and announced > size:
        raise VideoError("truncated", f"{file.name}: cut off: it announces {announced} bytes and has {size}; copy it again")
    try:
        reader = decord.VideoReader(str(file.absolute()), ctx=decord.cpu(0), num_threads=1)
    except AssertionError as error:  # decord's way to say that the header counts none
        raise VideoError("no_frames", f"{file.name}: a video without frames") from error
    except (RuntimeError, decord.DECORDError, UnicodeEncodeError) as error:
        raise VideoError("not_a_video", f"{file.name}: no video that can be opened") from error
    total = len(reader)
    if total > limits["frames"]:
        raise VideoError("too_many_frames", f"{file.name}: {total} frames; at most {limits['frames']} are allowed")
    times = reader.get_frame_timestamp(range(total)).astype(np.float64)  # (frames, start and end)
    starts, seconds = times[:, 0], round(float(times[-1, 1] - times[0, 0]), 6)  # decord's times are float32
    if not (np.isfinite(times).all() and seconds > 0 and (np.diff(starts) >= 0).all()):
        rate = float(reader.get_avg_fps())
        if not (np.isfinite(rate) and rate > 0):
            raise VideoError("damaged", f"{file.name}: it has neither usable time stamps nor a frame rate")
        starts, seconds = np.arange(total) / rate, total / rate
    _check_seconds(file, seconds, limits)

    def frame(index: int) -> Image.Image:
        found = reader[index].asnumpy()
        height, width = found.shape[:2]
        _check_area(file, width, height)
        # decord takes the channels to be (bytes of a padded line) / width: at widths such as 48 and 96 it shows the padding as channels.
        pixels = found.reshape(height, -1)[:, : width * 3].reshape(height, width, 3)
        return Image.fromarray(pixels)

    return _Video(starts, seconds, frame)


def _open_images(files: list[Path], limits: dict[str, Any]) -> _Video:
    if len(files) > limits["frames"]:
        raise VideoError("too_many_frames", f"{files[0].name}: one of {len(files)} images; at most {limits['frames']} are allowed")
    seconds = len(files) / sampling.IMAGES_PER_SECOND
    _check_seconds(files[0], seconds, limits)

    def frame(index: int) -> Image.Image:
        file = files[index]
        try:
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                _check_area(file, image.width, image.height)
                return _on_white(ImageOps.exif_transpose(image))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            reason = "truncated" if "truncated" in str(error) else "not_a_video"
            raise VideoError(
                reason, f"{file.name}: an image that is {'cut off' if reason == 'truncated' else 'none, or damaged'}"
            ) from error

    return _Video(np.arange(len(files)) / sampling.IMAGES_PER_SECOND, seconds, frame)


def _is_image(file: Path) -> bool:
    """Whether a single file is a still image, a frame folder of one."""
    try:
        # An animated GIF or WebP is a video, and decord reads the former.
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            return getattr(image, "n_frames", 1) == 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white, as in Qwen's `to_rgb`."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    return image.convert("RGB")


def _check_seconds(file: Path, seconds: float, limits: dict[str, Any]) -> None:
    if seconds > limits["seconds"]:
        raise VideoError("too_long", f"{file.name}: {seconds:.1f} s; at most {limits['seconds']:g} are allowed")


def _check_area(file: Path, width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise VideoError("too_large", f"{file.name}: frames of {width} x {height} pixels; at most {MAX_FRAME_PIXELS} pixels are allowed")


def _summary(error: Exception) -> str:
    """decord's message without times, places and stack, so that the same video gives the same report on every day and machine."""
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(r"\[\d+:\d+:\d+\] \S+: |0x[0-9a-f]+", "", lines[0])[:200]


if __name__ == "__main__":
    main()
