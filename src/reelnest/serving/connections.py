"""The server's HTTP connections: a request's head has to arrive in time, and silent connections make way for new ones.

uvicorn has no such limits. Without them, some hundred half-sent requests, or clients that do not read their responses, take all file
descriptors, and the server accepts nothing more.
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
    """Returns the number of open connections that leaves enough of the process's file descriptors free.

    Each may have a video open beside it.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(LARGEST_LIMIT, (files - RESERVED_FILES) // 2))


class Connection(H11Protocol):
    """One connection. It is closed if it has no request under way after HEAD_SECONDS.

    If there are too many connections, the one whose client has been silent for longest is closed, unless it waits for its response.
    """

    limit: ClassVar[int] = connection_limit()
    head_seconds: ClassVar[float] = HEAD_SECONDS
    dropped = False
    """Whether it was closed to make room."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """If there are too many, closes the one whose client has been silent for longest."""
        super().connection_made(transport)
        self.heard = self.loop.time()
        self._wait_for_head()
        if len(self.connections) > self.limit:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Starts the timer with a head's first byte, and stops it at its end."""
        self.heard = self.loop.time()
        super().data_received(data)
        if self.is_busy:
            self._stop_waiting()
        elif self._timer is None:
            self._wait_for_head()

    def pause_writing(self) -> None:
        """Notes that the client has read until now."""
        self.heard = self.loop.time()
        super().pause_writing()

    @property
    def is_busy(self) -> bool:
        """Whether a request has arrived that is not yet answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def waits_for_client(self) -> bool:
        """Whether the rest of a request has to arrive, or the client is reading the response."""
        return not self.is_busy or self.cycle.more_body or self.cycle.response_started

    def close(self) -> None:
        """Closes the connection if it has no request under way."""
        self._timer = None
        if not self.is_busy and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Responds to what is not HTTP with JSON, like every other error."""
        body = json.dumps({"error": msg})
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
        self.transport.write(f"{head}\r\n\r\n{body}".encode())
        self.transport.close()

    def _make_room(self) -> None:
        live = [each for each in self.connections if isinstance(each, Connection) and not each.dropped]
        silent = [each for each in live if each.waits_for_client]
        if len(live) > self.limit and silent:
            longest = min(silent, key=lambda each: each.heard)
            longest.dropped = True
            longest.transport.abort()  # `close` would wait for a client that does not read

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
