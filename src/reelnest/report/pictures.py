"""Frames as pictures that stand in a page itself."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

QUALITIES = (82, 70, 55, 40, 25)
LARGEST = 16_000
"""Bytes of a strip, 21,000 as base64: a page with a hundred of them keeps within 3 MB, although frames of noise and leaves are large."""
GAP = 2
"""Pixels between two frames."""


@dataclass(frozen=True)
class Strip:
    """A video's frames side by side, in order of time, as one JPEG."""

    address: Markup
    """A data URI."""
    width: int
    height: int
    frames: int


def strip(frames: NDArray[np.uint8]) -> Strip:
    """Lays `frames`, uint8 (frames, height, width, 3), side by side, at the highest of QUALITIES that takes no more than LARGEST bytes."""
    count, height, width, _ = frames.shape
    laid = np.full((height, count * width + (count - 1) * GAP, 3), 127, dtype=np.uint8)
    for number, frame in enumerate(frames):
        start = number * (width + GAP)
        laid[:, start : start + width] = frame
    for quality in QUALITIES:
        file = io.BytesIO()
        Image.fromarray(laid).save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= LARGEST:
            break
    # Safe as it is: base64 has no character that HTML reads.
    address = Markup("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii"))  # noqa: S704
    return Strip(address, laid.shape[1], height, count)
