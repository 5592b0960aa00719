"""Pillow, for still images (the frames of a folder, or one alone) and for animated WebP, which no decoder of videos here reads."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from reelnest.errors import VideoError
from reelnest.video import sampling
from reelnest.video.decoders import IMAGES, Unsuitable
from reelnest.video.files.containers import webp_durations
from reelnest.video.files.source import Source
from reelnest.video.limits import MAX_FRAME_PIXELS, check_area

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
DEFAULT_MILLISECONDS = 100
"""What browsers show a frame for that says 0."""

Image.MAX_IMAGE_PIXELS = MAX_FRAME_PIXELS // 2  # Pillow raises at twice this, before it decodes anything


class PillowDecoder:
    """Reads images and animated WebP."""

    name = IMAGES
    order = 0

    def open(self, source: Source) -> "ImagesVideo | AnimatedWebp":
        """Raises Unsuitable for a file that is no image, or a GIF that moves."""
        source.limits.check_frames(source.name, len(source.files))
        if len(source.files) == 1:
            with _opened(source, 0, is_known=False) as image:
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and image.format == "WEBP":
                    return AnimatedWebp(source, frames)
                if frames > 1 and image.format != "GIF":
                    advice = f"convert it: ffmpeg -i {source.name} out.mp4"
                    raise VideoError("not_a_video", f"{source.name}: {image.format} of {frames} pictures, which is not read; {advice}")
                if frames > 1:
                    raise Unsuitable("an animated GIF")
        return ImagesVideo(source)


class ImagesVideo:
    """A list of images, two a second."""

    def __init__(self, source: Source) -> None:
        """Raises VideoError (`too_long`)."""
        self._source = source
        total = len(source.files)
        self.starts: NDArray[np.float64] = np.arange(total) / sampling.IMAGES_PER_SECOND
        self.seconds = total / sampling.IMAGES_PER_SECOND
        source.limits.check_seconds(source.name, self.seconds)

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Raises VideoError for an image that is none, cut off or too large."""
        for index in indices:
            with _opened(self._source, int(index)) as image:
                yield _decoded(image, self._source.files[int(index)].name)


class AnimatedWebp:
    """An animated WebP, whose frames have a duration each."""

    def __init__(self, source: Source, frames: int) -> None:
        """Raises VideoError (`too_many_frames`, `too_long`, `damaged`)."""
        self._source = source
        source.limits.check_frames(source.name, frames)
        with source.files[0].open("rb") as file:
            durations = np.array(webp_durations(file), dtype=np.float64)
        if len(durations) != frames:
            raise VideoError("damaged", f"{source.name}: it announces {frames} frames and has {len(durations)}; copy it again")
        ends = np.cumsum(np.where(durations > 0, durations, DEFAULT_MILLISECONDS)) / 1000
        self.starts: NDArray[np.float64] = np.concatenate([[0.0], ends[:-1]])
        self.seconds = round(float(ends[-1]), 6)
        source.limits.check_seconds(source.name, self.seconds)

    def frames(self, indices: Sequence[int]) -> Iterator[Image.Image]:
        """Raises VideoError where the file is damaged."""
        with _opened(self._source, 0) as image:
            for index in indices:
                try:
                    image.seek(int(index))
                except (EOFError, OSError, SyntaxError) as error:
                    raise VideoError("damaged", f"{self._source.name}: its frame {index} cannot be decoded; copy it again") from error
                yield _decoded(image, self._source.name)


def _opened(source: Source, index: int, *, is_known: bool = True) -> Image.Image:
    """One of the source's images, not decoded yet. Raises VideoError; Unsuitable where it is not `is_known` to be one, and is none."""
    name = source.files[index].name
    try:
        image = Image.open(source.files[index], formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise VideoError("too_large", f"{name}: an image of more than {MAX_FRAME_PIXELS} pixels, the most that are allowed") from error
    except (OSError, SyntaxError, ValueError) as error:
        if not is_known:
            raise Unsuitable("no image") from error
        raise VideoError("not_a_video", f"{name}: no image, or a damaged one") from error
    check_area(name, image.width, image.height)
    return image


def _decoded(image: Image.Image, name: str) -> Image.Image:
    try:
        return _on_white(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise VideoError("too_large", f"{name}: an image of more than {MAX_FRAME_PIXELS} pixels, the most that are allowed") from error
    except (OSError, SyntaxError, ValueError) as error:
        is_cut = "truncated" in str(error)
        found = "cut off" if is_cut else "damaged"
        raise VideoError("truncated" if is_cut else "damaged", f"{name}: an image that is {found}; copy it again") from error


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white, as in Qwen's `to_rgb`."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    return image.convert("RGB")


DECODERS = (PillowDecoder(),)
