"""Many clients, slow ones, and ones that go away: each other request is answered, and every error is JSON."""

import asyncio
import http.client
import json
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import uvicorn

from reelnest.commands.search_inputs import Address, listen
from reelnest.serving.connections import Connection
from reelnest.serving.load_limit import LoadLimit
from reelnest.serving.searcher import SHOWN_CHARACTERS, OpenModel
from reelnest.store.entries import Entry
from tests.integration.serving.served_corpus import Served, read_videos, write_videos

FILES = 256
HALF_A_REQUEST = b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
HALF_AN_UPLOAD = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\nhalf"
A_LARGE_CLIP = b"GET /api/clip?index=one&id=clip/02 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextmanager
def served_by(folder: Path, log: Path) -> Iterator[tuple[str, int]]:
    """The host and port of a server that may open few files."""
    command = [str(Path(sys.executable).with_name("reelnest")), "serve", "--port", "0", "--index", "one"]
    limits = (FILES, FILES)
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
        ) as process,
    ):
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().split(" ")[0])
        try:
            yield str(address.hostname), int(address.port or 0)
        finally:
            process.terminate()


def test_slow_wrong_and_lost_clients_do_not_take_the_server_away(copy: Served, tmp_path: Path) -> None:
    write_videos(copy.data, [{**read_videos(copy.data)[0], "title": "t" * 3500}, *read_videos(copy.data)[1:]])
    copy.index()
    log = tmp_path / "log"
    with served_by(copy.root, log) as (host, port), ExitStack() as opened:
        for _ in range(FILES + 44):
            half = opened.enter_context(socket.create_connection((host, port), timeout=30))
            half.sendall(HALF_A_REQUEST)
        assert requests.get(f"http://{host}:{port}/api/health", timeout=20).json()["status"] == "ok"

        with socket.create_connection((host, port), timeout=30) as wrong:
            wrong.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
            answer = wrong.makefile("rb").read()
        assert b" 400 " in answer.splitlines()[0]
        assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])

        for ranges in ("bytes=9-1", "bytes=999999999-", "pieces=1-2"):
            found = requests.get(
                f"http://{host}:{port}/api/clip", params={"index": "one", "id": "clip/01"}, headers={"Range": ranges}, timeout=30
            )
            assert found.status_code in (400, 416)
            assert found.json()["error"]

        lost = http.client.HTTPConnection(host, port, timeout=30)
        lost.putrequest("POST", "/api/search")
        lost.putheader("Content-Length", "100000")
        lost.endheaders(b"half of")
        lost.close()

        hits = requests.get(f"http://{host}:{port}/api/search", params={"q": "red circle", "k": 30}, timeout=60).json()["hits"]
        assert max(len(hit["title"]) for hit in hits) == SHOWN_CHARACTERS + 1
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("sent", [HALF_AN_UPLOAD, A_LARGE_CLIP], ids=["uploads stop", "responses are not read"])
def test_silent_clients_make_way_for_others(copy: Served, tmp_path: Path, sent: bytes) -> None:
    with (copy.data / "videos/02.mp4").open("r+b") as clip:
        clip.truncate(30_000_000)  # more than the buffers of a connection hold
    log = tmp_path / "log"
    with served_by(copy.root, log) as (host, port), ExitStack() as opened:
        for _ in range(FILES + 44):
            opened.enter_context(socket.create_connection((host, port), timeout=30)).sendall(sent)
        assert requests.get(f"http://{host}:{port}/api/health", timeout=20).json()["status"] == "ok"
        assert requests.get(f"http://{host}:{port}/api/search", params={"q": "red circle"}, timeout=60).status_code == 200
    assert "Too many open files" not in log.read_text()
    assert "Traceback" not in log.read_text()


def test_uploads_on_their_way_keep_no_search_out() -> None:
    async def run() -> None:
        arrived, done = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["method"] == "POST":
                await receive()
            done.set()

        async def receive() -> Any:
            await arrived.wait()
            return {"type": "http.request", "body": b"a video", "more_body": False}

        limited = LoadLimit(app, most=1)
        upload = {"type": "http", "method": "POST", "path": "/api/search", "headers": []}
        uploads = [asyncio.create_task(limited(upload, receive, None)) for _ in range(3)]  # type: ignore[arg-type] (the app sends nothing)
        await asyncio.sleep(0)
        await limited({**upload, "method": "GET"}, receive, None)  # type: ignore[arg-type] (as above)
        assert done.is_set()
        arrived.set()
        await asyncio.gather(*uploads)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


@contextmanager
def in_this_process(app: Any, protocol: type[Connection]) -> Iterator[int]:
    """The port of a server in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(30)


async def slow_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers later than a head may take."""
    await asyncio.sleep(1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_a_head_that_does_not_arrive_ends_its_connection_and_a_slow_answer_does_not() -> None:
    class Hasty(Connection):
        head_seconds = 0.3

    with in_this_process(slow_app, Hasty) as port:
        for sent in (b"", HALF_A_REQUEST):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as half:
                half.sendall(sent)
                assert half.recv(100) == b""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
        # The same connection, half-sent the second time.
        assert connection.sock is not None
        connection.sock.sendall(HALF_A_REQUEST)
        assert connection.sock.recv(100) == b""
        connection.close()


def test_a_search_beyond_the_limit_is_refused_at_once_and_others_pass() -> None:
    async def run() -> None:
        begun, finish = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await finish.wait()

        limited, sent = LoadLimit(app, most=1), []

        async def send(message: Any) -> None:
            sent.append(message)

        search = {"type": "http", "method": "GET", "path": "/api/search", "headers": []}
        first = asyncio.create_task(limited(search, None, None))  # type: ignore[arg-type] (the app reads and sends nothing)
        await begun.wait()
        await limited(search, None, send)  # type: ignore[arg-type] (as above)
        assert sent[0]["status"] == 429
        assert (b"retry-after", b"1") in sent[0]["headers"]
        assert "Try again" in json.loads(sent[1]["body"])["error"]
        finish.set()
        await limited({**search, "path": "/api/health"}, None, send)  # type: ignore[arg-type] (as above)
        await first
        await limited(search, None, send)  # type: ignore[arg-type] (as above)
        assert len(sent) == 2

    with ThreadPoolExecutor(1) as thread:  # this one may have a loop already: a browser's
        thread.submit(asyncio.run, run()).result()


@pytest.mark.parametrize("count", [1, 40])
def test_a_query_s_vector_does_not_depend_on_the_queries_beside_it(served: Served, count: int) -> None:
    from reelnest.encoder.saved import load

    model = load(served.root / "models" / "one")
    shared = OpenModel(model, "hash", "no")
    texts = [f"a red ring {'and more ' * (number % 5)}" for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        vectors = list(pool.map(lambda text: shared.encode([Entry("query", text, None)])[0], texts))
    np.testing.assert_allclose(np.stack(vectors), model.encode_texts(texts), atol=1e-6)
    shared.close()


def test_responses_do_not_wait_for_the_client_to_confirm_their_head() -> None:
    with listen(Address("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
