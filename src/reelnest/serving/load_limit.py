"""Refuses searches beyond a number under way, so that the others are answered in time and memory stays flat."""

from starlette.types import ASGIApp, Receive, Scope, Send

from reelnest.serving.guard import error_response

MOST_SEARCHES = 200
"""Searches and embeddings under way. At 100 a second, the last of them waits two seconds."""
LIMITED = ("/api/search", "/v1/embeddings")


class LoadLimit:
    """ASGI middleware that answers a search beyond `most` with 429. All other requests pass."""

    def __init__(self, app: ASGIApp, most: int = MOST_SEARCHES) -> None:
        self._app, self._most = app, most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http" or scope["path"] not in LIMITED:
            await self._app(scope, receive, send)
        elif self._under_way >= self._most:
            error = f"The server has {self._most} searches under way. Try again in a second."
            await error_response(scope["path"], 429, error, {"Retry-After": "1"})(scope, receive, send)
        else:
            self._under_way += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._under_way -= 1
