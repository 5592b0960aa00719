"""Pillow, for still images (a frame folder, or one image) and for animated WebP, which the video decoders do not read."""

import contextlib
from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from reelnest.errors import VideoError
from reelnest.video import sampling
from reelnest.video.decoders import IMAGES, Unsuitable
from reelnest.video.files.containers import second_jpeg, webp_durations
from reelnest.video.files.source import Source
from reelnest.video.limits import MAX_FRAME_PIXELS, check_area

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
DEFAULT_MILLISECONDS = 100
"""How long browsers show a frame with duration 0."""

Image.MAX_IMAGE_PIXELS = MAX_FRAME_PIXELS // 2  # Pillow raises at twice this, before it decodes anything


class PillowDecoder:
    """Reads images and animated WebP."""

    name = IMAGES
    priority = 0

    def open(self, source: Source) -> "ImagesVideo | AnimatedWebp":
        """Raises Unsuitable for a file that is not an image, and for an animated GIF."""
        source.limits.check_frames(source.name, len(source.names))
        if len(source.names) == 1:
            with _opened(source, 0, is_known=False) as image:
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and image.format == "WEBP":
                    return AnimatedWebp(source, frames)
                if frames > 1 and image.format != "GIF":
                    advice = f"convert it: ffmpeg -i {source.name} out.mp4"
                    raise VideoError("not_a_video", f"{source.name}: {image.format} files with {frames} images are not supported; {advice}")
                if frames > 1:
                    raise Unsuitable("an animated GIF")
                if image.format == "JPEG" and _is_stream(source, image.size):
                    raise Unsuitable("a stream of JPEG images")
        return ImagesVideo(source)


class ImagesVideo:
    """A list of images, two a second."""

    def __init__(self, source: Source) -> None:
        """Raises VideoError (`too_long`)."""
        self._source = source
        total = len(source.names)
        self.starts: NDArray[np.float64] = np.arange(total) / sampling.IMAGES_PER_SECOND
        self.seconds = total / sampling.IMAGES_PER_SECOND
        source.limits.check_seconds(source.name, self.seconds)

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Raises VideoError for a file that is not an image, truncated or too large."""
        for index in indices:
            with _opened(self._source, int(index)) as image:
                yield _decoded(image, self._source.names[int(index)])


class AnimatedWebp:
    """An animated WebP. Each frame has its own duration."""

    def __init__(self, source: Source, frames: int) -> None:
        """Raises VideoError (`too_many_frames`, `too_long`, `damaged`)."""
        self._source = source
        source.limits.check_frames(source.name, frames)
        with source.file(0) as file:
            durations = np.array(webp_durations(file), dtype=np.float64)
        if len(durations) != frames:
            raise VideoError("damaged", f"{source.name}: its header lists {frames} frames, but it has {len(durations)}; copy it again")
        ends = np.cumsum(np.where(durations > 0, durations, DEFAULT_MILLISECONDS)) / 1000
        self.starts: NDArray[np.float64] = np.concatenate([[0.0], ends[:-1]])
        self.seconds = round(float(ends[-1]), 6)
        source.limits.check_seconds(source.name, self.seconds)

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Raises VideoError if the file is damaged."""
        with _opened(self._source, 0) as image:
            for index in indices:
                try:
                    image.seek(int(index))
                except (EOFError, OSError, SyntaxError) as error:
                    raise VideoError("damaged", f"{self._source.name}: frame {index} cannot be decoded; copy it again") from error
                yield _decoded(image, self._source.name)


@contextlib.contextmanager
def _opened(source: Source, index: int, *, is_known: bool = True) -> Iterator[Image.Image]:
    """Opens one of the source's images without decoding it. Raises VideoError; for a non-image, Unsuitable unless `is_known`."""
    name = source.names[index]
    with source.file(index) as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise VideoError("too_large", f"{name}: the image is too large; at most {MAX_FRAME_PIXELS} pixels are allowed") from error
        except (OSError, SyntaxError, ValueError) as error:
            if not is_known:
                raise Unsuitable("not an image") from error
            raise VideoError(
                "not_a_video", f"{name}: no image in {', '.join(FORMATS)}, or damaged; convert it, or copy it again"
            ) from error
        check_area(name, image.width, image.height)
        with image:
            yield image


def _is_stream(source: Source, size: tuple[int, int]) -> bool:
    """Returns whether a JPEG is followed by another of its size, as in raw Motion JPEG. Photos can be followed by a smaller one."""
    with source.file(0) as file:
        start = second_jpeg(file)
        if start is None:
            return False
        file.seek(start)
        try:
            with Image.open(BytesIO(file.read()), formats=("JPEG",)) as second:
                return second.size == size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return False


def _decoded(image: Image.Image, name: str) -> Image.Image:
    try:
        return _on_white(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise VideoError("too_large", f"{name}: the image is too large; at most {MAX_FRAME_PIXELS} pixels are allowed") from error
    except (OSError, SyntaxError, ValueError) as error:
        is_cut = "truncated" in str(error)
        reason = "truncated" if is_cut else "damaged"
        raise VideoError(reason, f"{name}: the image is {reason}; copy it again") from error


def _on_white(image: Image.Image) -> Image.Image:
    """Converts to RGB. Transparent pixels become white, as in Qwen's `to_rgb`."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    return image.convert("RGB")


DECODERS = (PillowDecoder(),)
