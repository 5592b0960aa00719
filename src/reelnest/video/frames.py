"""What a decoded video is, wherever it is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frames:
    """One video as Qwen2.5-VL eats it: patch rows that are not yet normalised.

    `grid_thw` counts patches in time, height and width. `seconds_per_grid` is the time between two steps of the grid: two sampled frames
    (the model's `second_per_grid_ts`).
    """

    grid_thw: tuple[int, int, int]
    seconds_per_grid: float
    read: Callable[[], NDArray[np.uint8]]
    """Gives the rows: those of a video whose tokens are kept are never asked for."""

    @classmethod
    def of(cls, rows: NDArray[np.uint8], grid_thw: tuple[int, int, int], seconds_per_grid: float) -> Self:
        """The frames whose rows are these."""
        return cls(grid_thw, seconds_per_grid, lambda: rows)

    @property
    def rows(self) -> NDArray[np.uint8]:
        """uint8 (patches, 1176), as many as the grid's product, in the order in which Qwen's own processors give them.

        A view of a memory-mapped shard where they come from the frame store, so they are read-only.
        """
        return self.read()
