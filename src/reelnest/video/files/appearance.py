"""What a video looks like, by a few of its frames: whether it is black, of one colour or frozen, and a hash to find similar videos.

Everything is measured on frames of 32 × 32 cells, so that noise of the compression does not count. The hash of a frame is the usual
perceptual hash by cosine transform (pHash, as in the library imagehash): a bit for each of the 8 × 8 lowest frequencies of its grey values,
whether it is above their median. Similar frames differ in few bits. It ignores colours, so the colours of 4 × 4 larger cells follow it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

CELLS = 32
"""Cells of a frame in each direction."""
FREQUENCIES = 8
HASHED_FRAMES = 3
HASH_BYTES = HASHED_FRAMES * FREQUENCIES**2 // 8
COLOUR_CELLS = 4
LOOK_BYTES = HASH_BYTES + COLOUR_CELLS**2 * 3

Cells = NDArray[np.float64]
GREY = np.array([0.299, 0.587, 0.114])
"""The share of red, green and blue in a grey value (ITU-R BT.601), as in Pillow."""

_STEPS = np.arange(CELLS)
COSINES: Cells = np.cos(np.pi / CELLS * (_STEPS[None, :FREQUENCIES].T) * (_STEPS[None, :] + 0.5))
"""The lowest rows of the cosine transform (DCT-II, without scale), (frequencies, cells)."""


def cells_of(image: "Image.Image") -> Cells:
    """Returns a frame as cells of 0 to 255, (CELLS, CELLS, 3)."""
    from PIL import Image  # a training, which decodes nothing, does without

    return np.asarray(image.convert("RGB").resize((CELLS, CELLS), Image.Resampling.BOX), dtype=np.float64)


def perceptual_hash(grey: Cells) -> bytes:
    """Returns the 64 bits of a frame of (CELLS, CELLS)."""
    spectrum = COSINES @ grey @ COSINES.T
    return np.packbits(spectrum > np.median(spectrum)).tobytes()


def colours(cells: Cells) -> bytes:
    """Returns the mean colours of COLOUR_CELLS × COLOUR_CELLS parts of a frame."""
    side = CELLS // COLOUR_CELLS
    return cells.reshape(COLOUR_CELLS, side, COLOUR_CELLS, side, 3).mean(axis=(1, 3)).round().astype(np.uint8).tobytes()


def appearance(frames: list[Cells]) -> dict[str, Any]:
    """Returns the appearance of a video by its frames in order, as fields of `VideoInfo`.

    `brightness` is that of the lightest cell, `contrast` the largest difference of two cells of a frame, and `change` the largest
    difference of a cell between two frames, or None for a single frame.
    """
    stack = np.stack(frames)
    grey: Cells = stack @ GREY
    hashed = [grey[number] for number in np.linspace(0, len(grey) - 1, HASHED_FRAMES).round().astype(int)]
    return {
        "brightness": round(float(stack.max()), 1),
        "contrast": round(float(np.ptp(stack, axis=(1, 2)).max()), 1),
        "change": round(float(np.abs(np.diff(stack, axis=0)).max()), 1) if len(stack) > 1 else None,
        "look": (b"".join(map(perceptual_hash, hashed)) + colours(stack[len(stack) // 2])).hex(),
    }
