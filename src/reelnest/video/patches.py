"""Converts frames to patch rows and back, with numpy only.

The processors of the Qwen-VL families return normalised float32 rows, which take four times the space, and need torchvision for videos.
Here rows stay uint8, equal to theirs before normalisation; the encoder normalises them on its device.

Source: transformers' `Qwen2VLImageProcessorPil` (https://github.com/huggingface/transformers, models/qwen2_vl). The tests compare the two.
"""

import math

import numpy as np
from numpy.typing import NDArray

from reelnest.video.vision_spec import CHANNELS, Grid, VisionSpec

MAX_ASPECT_RATIO = 200


def check_aspect_ratio(height: int, width: int) -> None:
    """Raises ValueError if one side is more than 200 times the other, as the Qwen-VL processors do."""
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"a frame of {width} x {height} pixels is more than {MAX_ASPECT_RATIO} times as long as it is wide")


def smart_resize(height: int, width: int, min_pixels: int, max_pixels: int, factor: int) -> tuple[int, int]:
    """Returns a resized frame's height and width: multiples of `factor`, an area within the limits, nearly the same aspect ratio.

    Raises ValueError as `check_aspect_ratio` does.
    """
    check_aspect_ratio(height, width)
    rounded_height = round(height / factor) * factor
    rounded_width = round(width / factor) * factor
    if rounded_height * rounded_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rounded_height = max(factor, math.floor(height / shrink / factor) * factor)
        rounded_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif rounded_height * rounded_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rounded_height = math.ceil(height * grow / factor) * factor
        rounded_width = math.ceil(width * grow / factor) * factor
    return rounded_height, rounded_width


def to_patches(frames: NDArray[np.uint8], vision: VisionSpec) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Cuts frames, uint8 (time, height, width, 3), into rows, uint8 (patches, row width), and their grid, int64 (3,).

    Rows are ordered by time, then by the square of patches that becomes one token, then by the patch in the square. A row is ordered by
    channel, frame, height, width. The last frame is repeated to fill the last patch. Height and width must be multiples of
    `vision.factor` (`smart_resize`).
    """
    time, height, width, channels = frames.shape
    patch, merge, span = vision.patch_size, vision.merge_size, vision.temporal_patch_size
    if height % vision.factor or width % vision.factor or channels != CHANNELS or time == 0:
        raise ValueError(f"expected at least one RGB frame with sides that are multiples of {vision.factor}; found shape {frames.shape}")
    if time % span:
        frames = np.concatenate([frames, np.repeat(frames[-1:], span - time % span, axis=0)])
    grid = (len(frames) // span, height // patch, width // patch)
    cut = frames.reshape(
        grid[0], span, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch, CHANNELS
    )  # (time, frame, square down, down, y, square across, across, x, channel)
    rows = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, vision.row_width)
    return rows, np.array(grid, dtype=np.int64)


def from_patches(rows: NDArray[np.uint8], grid: Grid, vision: VisionSpec) -> NDArray[np.uint8]:
    """Returns the inverse of `to_patches`: frames, uint8 (time, height, width, 3), including repeats of the last frame."""
    steps, down, across = (int(size) for size in grid)
    patch, merge, span = vision.patch_size, vision.merge_size, vision.temporal_patch_size
    cut = rows.reshape(
        steps, down // merge, across // merge, merge, merge, CHANNELS, span, patch, patch
    )  # (time, square down, square across, down, across, channel, frame, y, x)
    frames = cut.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)
    return frames.reshape(steps * span, down * patch, across * patch, CHANNELS)
