"""What a decoded video is, wherever it is kept."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frames:
    """One video as Qwen2.5-VL eats it: patch rows that are not yet normalised.

    `rows` are uint8, (patches, 1176), in the order in which Qwen's own processors give them; a view of a memory-mapped shard
    where they come from the frame store, so they are read-only. `grid_thw` counts patches in time, height and width, and its product is the
    number of rows. `seconds_per_grid` is the time between two steps of the grid: two sampled frames (the model's `second_per_grid_ts`).
    """

    rows: NDArray[np.uint8]
    grid_thw: tuple[int, int, int]
    seconds_per_grid: float
