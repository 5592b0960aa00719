"""Video decoders, one file each, behind one protocol.

In: a `Source`. Out: an `OpenedVideo`, which has the start time of each frame and decodes frames by index. A decoder raises `Unsuitable`
for a source that it would not read correctly, or slower than another, and the next decoder is tried. To add a decoder, add a file here
with its `DECODERS`; the file's name is its value of `preprocess.decoder`.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the settings import this module for the names; only the decoder process loads the decoders
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from reelnest.video.files.source import Source

AUTO = "auto"
IMAGES = "pillow"
"""The decoder of images and animated WebP, which is used with every value of `preprocess.decoder`."""


class Unsuitable(Exception):  # noqa: N818 - not an error: the next decoder is tried
    """A decoder cannot read a source correctly, or another reads it faster. The text is the reason."""


class OpenedVideo(Protocol):
    """A video whose frames can be decoded."""

    @property
    def starts(self) -> "NDArray[np.float64]":
        """Start time of each frame in seconds, increasing, (frames,)."""

    @property
    def seconds(self) -> float:
        """Time from the start of the first frame to the end of the last."""

    def frames(self, indices: Sequence[int]) -> "Iterator[Image.Image]":
        """Decodes the frames at `indices`, which must increase, as a player shows them: RGB, upright, with square pixels.

        Raises Unsuitable, or VideoError for a damaged video.
        """


class VideoDecoder(Protocol):
    """Opens the videos that it is known to read correctly."""

    @property
    def name(self) -> str:
        """Its name in `preprocess.decoder` and in reports: the name of its file."""

    @property
    def priority(self) -> int:
        """Decoders with lower numbers are tried first."""

    def open(self, source: "Source") -> OpenedVideo:
        """Raises Unsuitable if this decoder cannot read the source correctly, VideoError if no decoder could."""


def setting_names() -> tuple[str, ...]:
    """Returns the allowed values of `preprocess.decoder`."""
    return (AUTO, *(name for name in _file_names() if name != IMAGES))


@cache
def all_decoders() -> tuple[VideoDecoder, ...]:
    """Returns all decoders, in the order in which they are tried."""
    decoders = [decoder for name in _file_names() for decoder in importlib.import_module(f"{__name__}.{name}").DECODERS]
    return tuple(sorted(decoders, key=lambda decoder: decoder.priority))


def chosen_decoders(setting: str) -> tuple[VideoDecoder, ...]:
    """Returns the decoders that the value of `preprocess.decoder` allows, in the order in which they are tried."""
    return tuple(decoder for decoder in all_decoders() if setting in (AUTO, decoder.name) or decoder.name == IMAGES)


def _file_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
