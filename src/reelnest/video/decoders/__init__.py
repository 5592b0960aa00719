"""What opens a video: one decoder a file, behind one protocol.

In: a `Source`. Out: an `OpenedVideo`, which knows when each of its frames appears and decodes those that are asked for. A decoder that
would not give the right frames of a source says so (`Unsuitable`), and the next one is asked. To add a decoder, add a file here, named as
`preprocess.decoder` is to call it, with its `DECODERS`.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the settings ask for the names in any process, the decoders are loaded in one of their own
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from reelnest.video.files.source import Source

AUTO = "auto"
IMAGES = "pillow"
"""Reads images and animated WebP, which the decoders of videos do not, whichever of these is chosen."""


class Unsuitable(Exception):  # noqa: N818 - not an error: another decoder is asked
    """A decoder would give wrong frames of a source, or none. The text says why."""


class OpenedVideo(Protocol):
    """A video whose frames can be decoded."""

    @property
    def starts(self) -> "NDArray[np.float64]":
        """When each frame appears, in seconds, rising, (frames,)."""

    @property
    def seconds(self) -> float:
        """From the first frame's start to the last one's end."""

    def frames(self, indices: Sequence[int]) -> "Iterator[Image.Image]":
        """Decodes these frames, which rise, as one sees them: RGB, upright, with square pixels.

        Raises Unsuitable, or VideoError for a damaged video.
        """


class VideoDecoder(Protocol):
    """Opens the videos of which it is known to give the right frames."""

    @property
    def name(self) -> str:
        """What `preprocess.decoder` and the reports call it: the name of its file."""

    @property
    def order(self) -> int:
        """Decoders of a lower number are asked first."""

    def open(self, source: "Source") -> OpenedVideo:
        """Raises Unsuitable where it would not give the right frames, VideoError where the files are bad whoever reads them."""


def setting_names() -> tuple[str, ...]:
    """What `preprocess.decoder` may be."""
    return (AUTO, *(name for name in _file_names() if name != IMAGES))


@cache
def all_decoders() -> tuple[VideoDecoder, ...]:
    """Every decoder, in the order in which they are asked."""
    found = [decoder for name in _file_names() for decoder in importlib.import_module(f"{__name__}.{name}").DECODERS]
    return tuple(sorted(found, key=lambda decoder: decoder.order))


def chosen_decoders(setting: str) -> tuple[VideoDecoder, ...]:
    """Those that `preprocess.decoder` lets read a video."""
    return tuple(decoder for decoder in all_decoders() if setting in (AUTO, decoder.name) or decoder.name == IMAGES)


def _file_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
