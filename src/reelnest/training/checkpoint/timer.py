"""When the next checkpoint between evaluations is due."""

import time
from collections.abc import Callable

SECONDS_PER_MINUTE = 60


class CheckpointTimer:
    """Runs from one checkpoint to the next. One process asks it, since clocks differ, and the processes then agree."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`minutes` between checkpoints; None: none is ever due. `clock` gives seconds."""
        self._minutes = minutes
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Says that a checkpoint was written now."""
        self._started = self._clock()

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return self._minutes is not None and self._clock() - self._started >= SECONDS_PER_MINUTE * self._minutes
