"""Protection of the server: it checks who sends a request, and restricts what a browser may do with the page.

Any page that is open in the same browser can reach a server on 127.0.0.1. With DNS rebinding, a domain that resolves to 127.0.0.1 would
even give that page our origin. So only requests to known host names are accepted, and requests from pages of other sites are refused.
"""

import json
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI middleware: it refuses unknown hosts and other sites' pages, adds HEADERS to every response, and makes each error JSON."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        text_error: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal text_error
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                # Starlette answers invalid ranges of a file with plain text.
                if message["status"] >= 400 and headers.get("content-type", "").startswith("text/plain"):
                    text_error = message["status"]
                    headers["content-type"] = "application/json"
                    del headers["content-length"]
            elif text_error is not None:
                text = message["body"].decode(errors="replace") or HTTPStatus(text_error).phrase
                message = {**message, "body": json.dumps({"error": text}).encode()}
            await send(message)

        if (refusal := self._refusal(Headers(scope=scope))) is not None:
            await JSONResponse({"error": refusal}, status_code=403)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> str | None:
        host = _hostname(headers.get("host", ""))
        if host not in self._hosts:
            return f"The host name {host!r} is not allowed. To allow it, start the server with --allow-host NAME."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != headers["host"].lower():
            return "The request comes from a page of another site. Only this server's own page may send requests."
        return None


def _hostname(host: str) -> str | None:
    """The host name without port, in lower case; None if the header is invalid."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
