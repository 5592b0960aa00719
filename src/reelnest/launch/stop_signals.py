"""The signals by which a stage is requested to stop: SIGTERM, SIGHUP and Ctrl-C."""

import signal
import time
from collections.abc import Callable
from types import FrameType

SLICE_SECONDS = 0.2
"""How soon a signal is noticed."""


def handle_stop_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Installs a handler, except for signals that this process ignores (nohup, a shell's background job)."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


class StopSignals:
    """The signals by which this process is requested to stop."""

    def __init__(self, number: signal.Signals | None = None) -> None:
        self._number = number
        self.since: float | None = None if number is None else time.monotonic()
        """The time of the first signal, by the monotonic clock."""
        self.at_once = False
        """Whether a second Ctrl-C came."""

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.since is not None

    @property
    def number(self) -> signal.Signals:
        """The first signal."""
        return self._number or signal.SIGTERM

    def install(self) -> None:
        """Notes the signals from now on."""
        handle_stop_signals(self._on_signal)

    def wait(self, seconds: float) -> None:
        """Waits, but not longer than until the first signal."""
        deadline = time.monotonic() + seconds
        before = self.requested
        while time.monotonic() < deadline and self.requested == before:
            time.sleep(min(SLICE_SECONDS, seconds))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.since is None:
            self._number, self.since = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT:
            self.at_once = True
