"""Work that a server does every few seconds, in a thread of its own."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Repeated:
    """Calls a function again and again until it is closed. An error of the function is logged."""

    def __init__(self, function: Callable[[], object], seconds: float, name: str) -> None:
        """`seconds` is the time between two calls. The name is for log lines."""
        self._function, self._seconds, self._name = function, seconds, name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins with the first call."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after a call that is running."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._function()
            except Exception:
                log.exception("%s: failed, and is tried again", self._name)
            if self._ended.wait(self._seconds):
                return
