"""The server's HTTP connections: a request's head has to arrive in time, and idle connections make way for new ones.

uvicorn has no such limits. Without them, some hundred half-sent requests take all file descriptors, and the server accepts nothing more.
"""

import asyncio
import json
import resource
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""The longest time from the first byte of a request's head, or from the connection, to its end."""
LARGEST_LIMIT = 1000
RESERVED_FILES = 160
"""File descriptors for everything but connections: the index, uploads, the decoder, and what is accepted before a limit applies."""
BACKLOG = 32
"""Connections that are accepted at once. asyncio accepts some such batches before it hands the first one to its protocol."""


def connection_limit() -> int:
    """The number of open connections that leaves enough of the process's file descriptors free."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(LARGEST_LIMIT, files - RESERVED_FILES))


class Connection(H11Protocol):
    """One connection. It is closed if it has no request under way after HEAD_SECONDS, or earlier if there are too many connections."""

    limit: ClassVar[int] = connection_limit()
    head_seconds: ClassVar[float] = HEAD_SECONDS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """If there are too many, closes the one that has waited longest for its request."""
        super().connection_made(transport)
        self.opened = self.loop.time()
        self._wait_for_head()
        if len(self.connections) > self.limit:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Starts the timer with a head's first byte, and stops it at its end."""
        super().data_received(data)
        if self.is_busy:
            self._stop_waiting()
        elif self._timer is None:
            self._wait_for_head()

    @property
    def is_busy(self) -> bool:
        """Whether a request has arrived that is not yet answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def close(self) -> None:
        """Closes the connection if it has no request under way."""
        self._timer = None
        if not self.is_busy and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, as JSON like every other error."""
        body = json.dumps({"error": msg})
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
        self.transport.write(f"{head}\r\n\r\n{body}".encode())
        self.transport.close()

    def _make_room(self) -> None:
        live = [each for each in self.connections if isinstance(each, Connection) and not each.transport.is_closing()]
        idle = [each for each in live if not each.is_busy]
        if len(live) > self.limit and idle:
            min(idle, key=lambda each: each.opened).close()

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
