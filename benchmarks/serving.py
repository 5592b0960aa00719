"""The search server under load: 64 clients for a minute beside one client, then SIGTERM while requests run.

The server is a process of its own, over 20,000 videos of which each has a vector by `tiny` with random weights: how good it is changes no
time. Clients are processes too, and share the cores with it. Each text is searched once, so no cache decides. Half of the requests are
searches and half ask for embeddings.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

from benchmarks.side_by_side import ROOT, Benchmark, Figures

VIDEOS, CLIENTS, SECONDS, WARM_UP = 20_000, 64, 60.0, 5.0
FOLDER = Path(tempfile.gettempdir()) / "reelnest-served"
WORDS = ("red", "blue", "small", "large", "ring", "square", "moving", "still", "over", "under", "the", "with", "dog", "jumps", "forest")


def _make() -> None:
    """Makes the model and the index, in a process of its own."""
    if not (FOLDER / "index").is_dir():
        subprocess.run([sys.executable, "-c", "from benchmarks.serving import make_index; make_index()"], cwd=ROOT, check=True)


def make_index() -> None:
    """Writes an index of vectors by the model's hash. Its videos are one file under many ids."""
    import numpy as np
    import torch

    from reelnest.backbones.tiny import build_tiny
    from reelnest.encoder.encoder import load_encoder
    from reelnest.encoder.saved import save_model
    from reelnest.encoder.saved_settings import ABOUT_THE_MODEL
    from reelnest.engines.engine import Item, Manifest, open_engine, write_version
    from reelnest.engines.stored import FORMAT_VERSION
    from reelnest.records.content_hash import folder_hash
    from reelnest.records.formats import Video
    from reelnest.settings import Model, Preprocess, Tiny

    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "data").mkdir(parents=True)
    (FOLDER / "data" / "videos.jsonl").write_text("")
    torch.manual_seed(0)
    build_tiny(FOLDER / "base", WORDS, Tiny(), seed=0)
    settings = Model(pooling="mean")
    encoder, tokenizer = load_encoder(settings, FOLDER / "base", training=True)
    save_model(FOLDER / "model", encoder, tokenizer, settings, Preprocess(frames=4, min_pixels=3136, max_pixels=3200), None)
    shutil.copy(ROOT / "params.yaml", FOLDER)
    shutil.copytree(ROOT / "configs", FOLDER / "configs")
    vectors = np.random.default_rng(0).standard_normal((VIDEOS, settings.dims[-1])).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model="../model",
        model_hash=folder_hash(FOLDER / "model", without=ABOUT_THE_MODEL),
        base="tiny",
        dims=settings.dims,
        data="../data",
        data_hash="none",
        precision="no",
        storage="float32",
        graph_dim=None,
        tags={},
        videos=VIDEOS,
        windows=0,
        skipped=0,
    )
    videos = (Video(f"v{number:05d}", f"videos/{number}.mp4", (), {"title": f"clip {number}"}, number + 1) for number in range(VIDEOS))
    items = (Item(video, video.video_id, vector) for video, vector in zip(videos, vectors, strict=True))
    write_version(open_engine(str(FOLDER / "index")), manifest, items)


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=7))  # one of 170 million


def _request(rng: random.Random, *, is_search: bool) -> bytes:
    if is_search:
        return f"GET /api/search?q={quote(_text(rng))}&k=10 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    body = json.dumps({"input": _text(rng), "encoding_format": "base64"}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _answered(reader: asyncio.StreamReader) -> bool:
    """Reads one response. Returns whether its status is 200. Raises IncompleteReadError if the server closed before it was complete."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    await reader.readexactly(length)
    return head.startswith(b"HTTP/1.1 200")


async def _client(port: int, number: int, until: float, latencies: list[float], errors: list[str]) -> None:
    """One connection that sends the next request when the last is answered. A close between two requests is the server's stop."""
    rng = random.Random(f"{os.getpid()}/{number}/{time.time_ns()}")  # noqa: S311 (no secret)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    is_search = number % 2 == 0
    while time.monotonic() < until:
        started = time.monotonic()
        writer.write(_request(rng, is_search=is_search))
        is_search = not is_search
        try:
            if not await _answered(reader):
                errors.append("a status other than 200")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                errors.append("half an answer")
            return
        except ConnectionError:
            return
        latencies.append(time.monotonic() - started)
    writer.close()


def _load(port: int, clients: int, seconds: float) -> tuple[list[float], list[str]]:
    """Latencies and errors of clients that search for some seconds."""
    latencies: list[float] = []
    errors: list[str] = []

    async def run() -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(_client(port, number, until, latencies, errors) for number in range(clients)))

    asyncio.run(run())
    return latencies, errors


def _memory(process: int) -> float:
    """The resident memory of a process, in kilobytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def _serve(clients: int) -> Callable[[], Figures]:
    seconds = float(os.environ.get("SECONDS", SECONDS))

    def run() -> Figures:
        command = [sys.executable, "-c", "from reelnest.cli import app; app()", "serve", "--port", "0", "--index", "index"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        with subprocess.Popen(command, cwd=FOLDER, env=environment, stdout=subprocess.PIPE, text=True) as server:
            try:
                address = "" if server.stdout is None else server.stdout.readline()
                port = int(address.split(" ")[0].rstrip("/").rpartition(":")[2])
                _load(port, clients, WARM_UP)
                before = _memory(server.pid)
                latencies, errors = _load(port, clients, seconds)
                after = _memory(server.pid)
                stop = subprocess.Popen(["/bin/sh", "-c", f"sleep 3; kill -TERM {server.pid}"])
                _, at_stop = _load(port, clients, 10)
                stop.wait()
                status = server.wait(30)
            finally:
                server.kill()
        if errors or at_stop or status != 128 + signal.SIGTERM:
            raise RuntimeError(f"errors: {errors[:3]}, after SIGTERM: {at_stop[:3]}, status {status}")
        quantiles = statistics.quantiles(latencies, n=100)
        sys.stderr.write(
            f"{clients} clients: {len(latencies) / seconds:.1f} requests/s, p50 {1000 * quantiles[49]:.0f} ms,"
            f" p99 {1000 * quantiles[98]:.0f} ms, memory {before / 1000:.0f} MB, then {after / 1000:.0f} MB\n"
        )
        return {"requests/s": len(latencies) / seconds, "kilobytes": after, "p99_ms": 1000 * quantiles[98], "growth": after - before}

    return run


BENCHMARKS = {
    "serve-clients": Benchmark(
        f"the search server, {CLIENTS} clients for {SECONDS:g} s, then SIGTERM: searches in {VIDEOS:,} videos and embeddings",
        "one client",
        4.0,
        partial(_serve, CLIENTS),
        partial(_serve, 1),
        runs=1,
        unit="requests/s",
        setup=_make,
    ),
}
