"""Protection of the server: it checks who sends a request, and restricts what a browser may do with the page.

Any page that is open in the same browser can reach a server on 127.0.0.1. With DNS rebinding, a domain that resolves to 127.0.0.1 would
even give that page our origin. So only requests to known host names are accepted, and requests from pages of other sites are refused.
"""

import base64
import hmac
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
OPEN_PATHS = ("/api/health", "/api/ready")
"""What a load balancer asks without a key."""
NO_KEY = "The server needs its API key: send the header `Authorization: Bearer KEY`, or log in with the key as the password."
CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
"""OpenAI's codes of errors, by status."""
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


@dataclass(frozen=True)
class Access:
    """Who may use the server."""

    hosts: Collection[str] = LOCAL_HOSTS
    """Names by which browsers may address it."""
    origins: Collection[str] = ()
    """Other sites whose pages may send requests, such as `https://app.example`."""
    api_key: str | None = field(default=None, repr=False)
    """What every request but one for the server's health has to contain."""

    @property
    def sent_origins(self) -> frozenset[str]:
        """The other sites as browsers send them."""
        return frozenset(origin.lower().rstrip("/") for origin in self.origins)


class CrossOrigin(CORSMiddleware):
    """ASGI middleware that lets browsers send the requests of pages of `access.origins`."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        super().__init__(
            app,
            sorted(access.sent_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client in a browser sends a dozen of its own
            expose_headers=["Retry-After"],
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Returns Starlette's response, with an error as JSON."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        return JSONResponse({"error": bytes(response.body).decode()}, response.status_code, {"Vary": "Origin"})


class Guard:
    """ASGI middleware: it refuses what `access` does not allow, adds HEADERS to every response, and makes each error JSON."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._hosts = frozenset(host.lower() for host in access.hosts)
        self._origins = access.sent_origins
        self._key = access.api_key
        self._headers = dict(HEADERS)
        if access.origins:
            self._headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        self._app = app

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
                for name, value in self._headers.items():
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

        headers = Headers(scope=scope)
        if (refusal := self._refusal(headers)) is not None:
            await error_response(scope["path"], 403, refusal)(scope, receive, send_with_headers)
        elif scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            log_in = {"WWW-Authenticate": 'Basic realm="reelnest"'}
            await error_response(scope["path"], 401, NO_KEY, log_in)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> str | None:
        host = _hostname(headers.get("host", ""))
        if host not in self._hosts:
            return f"The host name {host or ''!r} is not allowed. To allow it, start the server with --allow-host NAME."
        origin = headers.get("origin", "").lower()
        if "origin" in headers:
            is_allowed = origin.partition("://")[2] == headers["host"].lower() or origin in self._origins
        else:  # browsers send none for a link, and for an image or a video of a page, whose address may be a search's
            is_embedded = headers.get("sec-fetch-site") in ("same-site", "cross-site") and headers.get("sec-fetch-mode") != "navigate"
            is_allowed = bool(self._origins) or not is_embedded
        if not is_allowed:
            return "The request comes from a page of another site. To allow it, start the server with --allow-origin ORIGIN."
        return None

    def _has_key(self, headers: Headers) -> bool:
        """Returns whether a request contains the key, as a bearer token or as the password of a log-in."""
        if self._key is None:
            return True
        scheme, _, text = headers.get("authorization", "").partition(" ")
        sent = text.encode("latin-1")  # the header's bytes
        if scheme.lower() == "basic":
            try:
                sent = base64.b64decode(sent, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(sent, self._key.encode())  # takes as long for a wrong key as for a right one


def error_response(
    path: str,
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    param: str | None = None,
    code: str | None = None,
) -> JSONResponse:
    """Returns an error as JSON; under /v1 in the form of OpenAI's API, where `param` is the field of the request that is wrong."""
    error: object = message
    if path.startswith("/v1/"):
        kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": param, "code": code or CODES.get(status)}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def _hostname(host: str) -> str | None:
    """Returns the host name without port, in lower case; None if the header is invalid."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
