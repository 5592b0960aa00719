"""Refuses searches beyond a number under way, so that the others are answered in time and memory stays flat."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelnest.serving.guard import error_response

MOST_SEARCHES = 200
"""Searches and embeddings under way. At 100 a second, the last of them waits two seconds."""
LIMITED = ("/api/search", "/v1/embeddings")


class LoadLimit:
    """ASGI middleware that responds to a search beyond `most` with 429. All other requests pass."""

    def __init__(self, app: ASGIApp, most: int = MOST_SEARCHES) -> None:
        self._app, self._most = app, most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http" or scope["path"] not in LIMITED:
            await self._app(scope, receive, send)
            return
        begun = False

        def begin() -> None:
            nonlocal begun
            self._check()
            self._under_way += 1
            begun = True

        async def receive_all() -> Message:
            message = await receive()
            if not begun and message["type"] == "http.request" and not message.get("more_body", False):
                begin()
            return message

        try:
            if scope["method"] == "POST":  # counts once its body is there, or slow uploads would keep the others out
                self._check()
                await self._app(scope, receive_all, send)
            else:
                begin()
                await self._app(scope, receive, send)
        except HTTPException as error:
            await error_response(scope["path"], error.status_code, error.detail, error.headers)(scope, receive, send)
        finally:
            if begun:
                self._under_way -= 1

    def _check(self) -> None:
        if self._under_way >= self._most:
            raise HTTPException(429, f"The server has {self._most} searches under way. Try again in a second.", {"Retry-After": "1"})
