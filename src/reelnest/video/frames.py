"""What a decoded video is, wherever it is kept, and what it was decoded for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reelnest.settings import Preprocess
from reelnest.video.vision_spec import Grid, VisionSpec


@dataclass(frozen=True)
class FrameSettings:
    """How a video becomes patches: which frames are sampled and how large, and how the model family cuts them."""

    sampling: Preprocess
    vision: VisionSpec


@dataclass(frozen=True, eq=False)
class Frames:
    """One video as a model family reads it: patch rows that are not yet normalised.

    `grid_thw` counts patches in time, height and width. `seconds_per_grid` is the time between two steps of the grid.
    """

    vision: VisionSpec
    grid_thw: Grid
    seconds_per_grid: float
    read: Callable[[], NDArray[np.uint8]]
    """Gives the rows: those of a video whose tokens are kept are never asked for."""
    decoder: str = ""
    """Name of the decoder that read the file; empty for frames of no file."""

    @classmethod
    def of(cls, rows: NDArray[np.uint8], grid_thw: Grid, seconds_per_grid: float, vision: VisionSpec, decoder: str = "") -> Self:
        """The frames whose rows are these."""
        return cls(vision, grid_thw, seconds_per_grid, lambda: rows, decoder)

    @property
    def tokens(self) -> int:
        """Tokens that the vision tower makes of it."""
        return self.vision.tokens(self.grid_thw)

    @property
    def rows(self) -> NDArray[np.uint8]:
        """uint8 (patches, row width), as many as the grid's product, in the order of `patches.to_patches`.

        A view of a memory-mapped shard where they come from the frame store, so they are read-only.
        """
        return self.read()
