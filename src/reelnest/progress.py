"""Shows that long work goes on: a bar in a terminal, and otherwise a log line every ten seconds.

    for video in Activity("inspecting", len(videos), "video").over(videos): ...

    with Activity("saving the model in MLflow"):  # work that cannot be counted
        ...

Activities may be nested; the innermost one is shown. A thread writes the lines, so that they come while a step takes minutes.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from tqdm import tqdm

T = TypeVar("T")

EVERY_SECONDS = 10.0
"""Between two lines."""
REFRESH_SECONDS = 1.0
"""Between two redraws of a bar without progress, whose clock would stand still."""

log = logging.getLogger(__name__)

_active: list["Activity"] = []
_changing = threading.RLock()
_ended = threading.Event()


class Activity:
    """Long work, as a context manager. Nothing is printed for work that takes less than ten seconds outside of a terminal."""

    def __init__(
        self,
        what: str,
        total: int | None = None,
        unit: str = "",
        *,
        done: int = 0,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describes the work.

        Args:
            what: Its name, such as `decoding`.
            total: How many units it has; None if they cannot be counted.
            unit: What is counted, in the singular.
            done: How many are already done, by an earlier process.
            shown: Whether this process shows it. Of several ranks, only the first should.
            clock: Returns the time in seconds.
        """
        self.what, self.total, self.done, self.note = what, total, done, ""
        self._unit, self._done_before, self._shown, self._clock = unit, done, shown, clock
        self._started = clock()
        self._bar: Any = None

    def __enter__(self) -> Self:
        self._started = self._clock()
        if self._shown:
            counted = self.total is not None
            self._bar = tqdm(
                desc=self.what,
                total=self.total,
                initial=self.done,
                unit=self._unit,
                disable=None,  # no bar without a terminal
                dynamic_ncols=True,
                leave=counted,
                bar_format=None if counted else "{desc}: {elapsed}",
            )
            _begin(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            _end(self)
            self._bar.close()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items, and counts each one when the next is asked for."""
        with self:
            for item in items:
                yield item
                self.advance()

    def advance(self, count: int = 1) -> None:
        """Adds to what is done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)

    def describe(self, note: str) -> None:
        """Sets what is shown besides the counts, such as the loss."""
        self.note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)

    @property
    def in_terminal(self) -> bool:
        """Whether it is shown as a bar."""
        return self._bar is not None and not self._bar.disable

    def show(self) -> None:
        """Redraws the bar, or logs a line."""
        if self.in_terminal:
            self._bar.refresh()
        else:
            log.info("%s", self.line())

    def line(self) -> str:
        """Returns a line such as `decoding: 1,200 of 1,839 videos (65 %), 197 a second, 3 s left`."""
        seconds = self._clock() - self._started
        if self.total is None:
            return f"{self.what}: {duration(seconds)}"
        share = 100 * self.done / max(self.total, 1)
        parts = [f"{self.done:,} of {self.total:,} {self._unit}{'' if self.total == 1 else 's'} ({share:.0f} %)"]
        if self.note:
            parts.append(self.note)
        rate = (self.done - self._done_before) / max(seconds, 1e-9)
        if rate:
            parts += [f"{rate:.3g} a second", f"{duration((self.total - self.done) / rate)} left"]
        return f"{self.what}: {', '.join(parts)}"


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]  # not generic when it runs
    """Writes log lines to standard error, above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record; bars are removed for it and drawn again."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def duration(seconds: float) -> str:
    """Returns a duration, such as `45 s`, `3 min 20 s` or `2 h 5 min`."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"


def show_innermost() -> None:
    """Shows the innermost activity of this process."""
    with _changing:
        if _active:
            _active[-1].show()


def _begin(activity: Activity) -> None:
    global _ended
    with _changing:
        _active.append(activity)
        if len(_active) == 1:
            _ended = threading.Event()
            seconds = REFRESH_SECONDS if activity.in_terminal else EVERY_SECONDS
            threading.Thread(target=_show_until, args=(_ended, seconds), name="progress", daemon=True).start()


def _end(activity: Activity) -> None:
    with _changing:
        _active.remove(activity)
        if not _active:
            _ended.set()


def _show_until(ended: threading.Event, seconds: float) -> None:
    while not ended.wait(seconds):
        show_innermost()
