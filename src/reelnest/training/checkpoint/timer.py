"""Decides when the next checkpoint between evaluations is due."""

import time
from collections.abc import Callable

SECONDS_PER_MINUTE = 60


class CheckpointTimer:
    """Measures the time since the last checkpoint. Only the main process uses it, because clocks differ."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`minutes` between checkpoints; None for no timed checkpoints. `clock` returns seconds."""
        self._minutes = minutes
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Starts the interval anew, after a checkpoint was written."""
        self._started = self._clock()

    @property
    def is_due(self) -> bool:
        """Whether the interval has passed."""
        return self._minutes is not None and self._clock() - self._started >= SECONDS_PER_MINUTE * self._minutes
