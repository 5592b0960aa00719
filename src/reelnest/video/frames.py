"""A decoded video, and the settings that it was decoded with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reelnest.records.segments import Segment
from reelnest.settings import Preprocess
from reelnest.video.vision_spec import Grid, VisionSpec


@dataclass(frozen=True)
class FrameSettings:
    """How a video becomes patches: which frames are sampled, their size, and how the model family cuts them."""

    sampling: Preprocess
    vision: VisionSpec


@dataclass(frozen=True)
class DecodingJob:
    """A video whose frames are not in the cache."""

    key: str
    files: Sequence[Path]
    segment: Segment | None


@dataclass(frozen=True, eq=False)
class Frames:
    """One video as input of a model family: patch rows before normalisation.

    `grid_thw` counts patches in time, height and width. `seconds_per_grid` is the time between two steps of the grid.
    """

    vision: VisionSpec
    grid_thw: Grid
    seconds_per_grid: float
    read: Callable[[], NDArray[np.uint8]]
    """Returns the rows. Lazy, because rows are not read when the video's tokens are cached."""
    decoder: str = ""
    """Name of the decoder that read the file; empty for frames that come from no file."""

    @classmethod
    def of(cls, rows: NDArray[np.uint8], grid_thw: Grid, seconds_per_grid: float, vision: VisionSpec, decoder: str = "") -> Self:
        """Returns frames with `rows` in memory."""
        return cls(vision, grid_thw, seconds_per_grid, lambda: rows, decoder)

    @property
    def tokens(self) -> int:
        """Number of tokens that the vision tower returns for the video."""
        return self.vision.tokens(self.grid_thw)

    @property
    def rows(self) -> NDArray[np.uint8]:
        """uint8 (patches, row width), one per cell of the grid, in the order of `patches.to_patches`.

        Read-only: rows from the frame store are a view of a memory-mapped shard.
        """
        return self.read()
