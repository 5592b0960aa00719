"""Frames to Qwen2-VL's patch rows and back, in numpy alone.

Qwen's own processors give float32 rows that are already normalised: four times the bytes, and for videos they need torchvision. Here the
rows stay uint8, equal to theirs before normalisation, and the model normalises them on its own device with IMAGE_MEAN and IMAGE_STD.

Source: transformers' `Qwen2VLImageProcessorPil` (https://github.com/huggingface/transformers, models/qwen2_vl), which the tests compare
with.
"""

import math

import numpy as np
from numpy.typing import NDArray

PATCH_SIZE = 14
"""Pixels on a patch's side."""
MERGE_SIZE = 2
"""Patches on the side of the square that the model merges into one token."""
TEMPORAL_PATCH_SIZE = 2
"""Frames that one patch spans."""
FACTOR = PATCH_SIZE * MERGE_SIZE
"""Both sides of a resized frame are multiples of this."""
ROW_WIDTH = 3 * TEMPORAL_PATCH_SIZE * PATCH_SIZE * PATCH_SIZE
"""Bytes in a row: 1176."""
MAX_ASPECT_RATIO = 200

# CLIP's, of values between 0 and 1, by channel (red, green, blue).
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def smart_resize(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The height and width to which Qwen resizes a frame: multiples of 28, an area between the two limits, the aspect ratio nearly kept.

    Raises ValueError where one side is more than 200 times the other, as Qwen's does.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"a frame of {width} x {height} pixels is more than {MAX_ASPECT_RATIO} times as long as it is wide")
    rounded_height = round(height / FACTOR) * FACTOR
    rounded_width = round(width / FACTOR) * FACTOR
    if rounded_height * rounded_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rounded_height = max(FACTOR, math.floor(height / shrink / FACTOR) * FACTOR)
        rounded_width = max(FACTOR, math.floor(width / shrink / FACTOR) * FACTOR)
    elif rounded_height * rounded_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rounded_height = math.ceil(height * grow / FACTOR) * FACTOR
        rounded_width = math.ceil(width * grow / FACTOR) * FACTOR
    return rounded_height, rounded_width


def to_patches(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Cuts frames, uint8 (time, height, width, 3), into rows, uint8 (patches, 1176), and their grid, int64 (3,).

    Rows go through time, then through 2 x 2 squares of patches, then through the patches of a square; in a row stand channel, frame,
    height, width. An odd last frame is repeated. Height and width must be multiples of 28 (`smart_resize`).
    """
    time, height, width, channels = frames.shape
    if height % FACTOR or width % FACTOR or channels != 3 or time == 0:
        raise ValueError(f"expected at least one RGB frame with sides that are multiples of {FACTOR}; found shape {frames.shape}")
    if time % TEMPORAL_PATCH_SIZE:
        frames = np.concatenate([frames, np.repeat(frames[-1:], TEMPORAL_PATCH_SIZE - time % TEMPORAL_PATCH_SIZE, axis=0)])
    grid = (len(frames) // TEMPORAL_PATCH_SIZE, height // PATCH_SIZE, width // PATCH_SIZE)
    cut = frames.reshape(
        grid[0], TEMPORAL_PATCH_SIZE, grid[1] // MERGE_SIZE, MERGE_SIZE, PATCH_SIZE, grid[2] // MERGE_SIZE, MERGE_SIZE, PATCH_SIZE, 3
    )  # (time, frame, square down, down, y, square across, across, x, channel)
    rows = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, ROW_WIDTH)
    return rows, np.array(grid, dtype=np.int64)


def from_patches(rows: NDArray[np.uint8], grid: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The frames, uint8 (time, height, width, 3), of which `to_patches` made `rows` and `grid`. `time` is even."""
    steps, down, across = (int(size) for size in grid)
    cut = rows.reshape(
        steps, down // MERGE_SIZE, across // MERGE_SIZE, MERGE_SIZE, MERGE_SIZE, 3, TEMPORAL_PATCH_SIZE, PATCH_SIZE, PATCH_SIZE
    )  # (time, square down, square across, down, across, channel, frame, y, x)
    frames = cut.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)
    return frames.reshape(steps * TEMPORAL_PATCH_SIZE, down * PATCH_SIZE, across * PATCH_SIZE, 3)
