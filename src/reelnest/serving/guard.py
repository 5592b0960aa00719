"""What stands before every answer of the server: who may ask, and what a browser may do with the page.

A server on 127.0.0.1 is reached by any page that is open in the same browser. A name that its owner points to 127.0.0.1 (DNS rebinding)
would make that page one of ours, so only known host names are answered; and what another site's page sends is refused.
"""

from collections.abc import Collection
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
    """ASGI middleware: refuses hosts that are not ours and requests of other sites' pages, and adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        if (refusal := self._refusal(Headers(scope=scope))) is not None:
            await JSONResponse({"error": refusal}, status_code=403)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> str | None:
        host = _hostname(headers.get("host", ""))
        if host not in self._hosts:
            return f"This server does not answer to the name {host!r}. Start it with --allow-host NAME if it should."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != headers["host"].lower():
            return "A page of another site asked; only this server's own page may."
        return None


def _hostname(host: str) -> str | None:
    """Without the port, in lower case; None where the header is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
