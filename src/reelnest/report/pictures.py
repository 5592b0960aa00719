"""Frames as images that are embedded in a page."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

QUALITIES = (82, 70, 55, 40, 25)
LARGEST = 16_000
"""Most bytes of a strip (21,000 as base64), so that a page with a hundred strips stays below 3 MB even if the frames compress badly."""
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
    """Puts `frames`, uint8 (frames, height, width, 3), side by side, at the highest of QUALITIES that fits into LARGEST bytes."""
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
    # Safe: base64 has no character that is special in HTML.
    address = Markup("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii"))  # noqa: S704 (see above)
    return Strip(address, laid.shape[1], height, count)
