"""The server of a simulated Kubernetes: its API over HTTPS, with a token, and the kubeconfig of its clients."""

import json
import re
import secrets
import ssl
import subprocess
import threading
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE = "training"
ROUTE = re.compile(rf"/(?:api/v1|apis/batch/v1)/namespaces/{NAMESPACE}/(?P<kind>jobs|pods)(?:/(?P<name>[^/]+))?(?P<log>/log)?")

Respond = Callable[[str, Mapping[str, str | None], Mapping[str, str], Any], Any]
"""Returns the content of a response to a request: its method, the groups of ROUTE, its query and its body. Raises Refused."""


class Refused(Exception):  # noqa: N818 -- as in the API
    """A request that Kubernetes answers with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """The API's server. It has the same address each time it starts."""

    def __init__(self, folder: Path, respond: Respond) -> None:
        self.failing: int | None = None
        """The status of all responses."""
        self._folder, self._respond = folder, respond
        self._token = ""
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=kubernetes"]
        files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.pem"]
        subprocess.run([*certificate, *files], cwd=folder, check=True, capture_output=True)

    def start(self) -> None:
        """Starts the server."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), partial(_Handler, self))
        self._port = self._server.server_port
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "ca.pem", self._folder / "key.pem")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def kill(self) -> None:
        """Ends the server. Pods run on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def change_token(self) -> None:
        """Refuses earlier credentials, and writes new ones into the kubeconfig."""
        self._token = secrets.token_hex(16)
        cluster = {"server": f"https://127.0.0.1:{self._port}", "certificate-authority": str(self._folder / "ca.pem")}
        contents = {
            "current-context": "sim",
            "contexts": [{"name": "sim", "context": {"cluster": "sim", "user": "me", "namespace": NAMESPACE}}],
            "clusters": [{"name": "sim", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": self._token}}],
        }
        (self._folder / "kubeconfig").write_text(yaml.safe_dump(contents))

    def respond(self, method: str, address: str, authorization: str | None, body: Any) -> tuple[int, Any]:
        """The status and the content of a response."""
        parts = urlsplit(address)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            if self.failing is not None:
                raise Refused(self.failing, "the server is currently unable to handle the request")
            if authorization != f"Bearer {self._token}":
                raise Refused(401, "Unauthorized")
            matched = ROUTE.fullmatch(parts.path)
            if matched is None:
                raise Refused(404, f"no such path or namespace: {parts.path}")
            return 201 if method == "POST" else 200, self._respond(method, matched.groupdict(), query, body)
        except Refused as error:
            return error.code, {"kind": "Status", "status": "Failure", "message": str(error), "code": error.code}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, api: Api, *arguments: Any) -> None:
        self._api = api
        super().__init__(*arguments)  # handles the request

    def _handle(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content = self._api.respond(self.command, self.path, self.headers.get("Authorization"), json.loads(text) if text else None)
        sent = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815 (the base class's names)

    def log_message(self, *arguments: object) -> None:
        pass
