"""The registered model gives the same vectors as the saved one, through MLflow's Python API and over HTTP."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.models.cli import commands

import reelnest
from reelnest.errors import RegistryError
from tests.integration.registry.candidate_workspace import Project

START_SECONDS = 120


@pytest.fixture(scope="module")
def loaded(registered: Project) -> Any:
    mlflow.set_tracking_uri(registered.params.tracking.uri)
    mlflow.set_registry_uri(registered.params.tracking.uri)
    return mlflow.pyfunc.load_model("models:/reelnest@champion")


@pytest.fixture(scope="module")
def saved(registered: Project) -> Iterator[reelnest.SavedModel]:
    model = reelnest.load(registered.workspace.candidate, device="cpu")
    yield model
    model.close()


@pytest.mark.parametrize("dim", [0, 8, 32])
def test_texts_and_videos_get_the_vectors_of_the_saved_model(loaded: Any, saved: reelnest.SavedModel, clip: Path, dim: int) -> None:
    rows = [
        {"text": "a red circle"},
        {"video": clip.read_bytes(), "title": "a clip"},
        {"video": base64.b64encode(clip.read_bytes()).decode()},
        {"text": "a blue circle"},
    ]
    for role in ("query", "target"):
        vectors = loaded.predict(pd.DataFrame(rows), params={"dim": dim, "role": role})
        texts = saved.encode_texts(["a red circle", "a blue circle"], role=role, dim=dim or None)
        videos = saved.encode_videos([clip, clip], role=role, fields=[{"title": "a clip"}, {}], dim=dim or None)
        np.testing.assert_allclose(vectors, np.stack([texts[0], videos[0], videos[1], texts[1]]), atol=1e-5)


def test_a_registered_model_is_loaded_by_its_alias(
    registered: Project, saved: reelnest.SavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # outside the project
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.params.tracking.uri)
    model = reelnest.load("models:/reelnest@champion", device="cpu")
    np.testing.assert_allclose(model.encode_texts(["a"]), saved.encode_texts(["a"]), atol=1e-6)
    with pytest.raises(RegistryError, match="has no version 99"):
        reelnest.load("models:/reelnest/99")


def test_columns_of_lists_are_rows(loaded: Any, saved: reelnest.SavedModel) -> None:
    np.testing.assert_allclose(loaded.predict({"text": ["a", "b"]}), saved.encode_texts(["a", "b"]), atol=1e-5)


def test_a_storage_type_gives_fewer_bytes_of_the_same_vectors(loaded: Any) -> None:
    rows = pd.DataFrame({"text": ["a red circle", "左へ動く円", "a blue circle that grows"]})
    vectors = {name: loaded.predict(rows, params={"dim": 20, "storage": name}) for name in ("float32", "float16", "int8", "binary")}
    floats = vectors["float32"]
    assert {name: vectors.dtype.name for name, vectors in vectors.items()} == {
        "float32": "float32",
        "float16": "float16",
        "int8": "int8",
        "binary": "uint8",
    }
    np.testing.assert_allclose(vectors["float16"], floats, atol=1e-3)
    assert np.abs(vectors["int8"]).max(axis=1).tolist() == [127, 127, 127]
    codes = vectors["int8"].astype(np.float32)
    step = np.abs(floats).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(codes * step, floats, atol=step.max() / 2 + 1e-6)
    assert vectors["binary"].shape == (3, 3)
    np.testing.assert_array_equal(np.unpackbits(vectors["binary"], axis=1, count=20), floats > 0)


BAD_INPUT = [
    ([{"video": "/etc/passwd"}], {}, "row 0: `video` must be the bytes of a video file in base64"),
    ([{"video": "https://example.org/a.mp4"}], {}, "row 0: `video` must be the bytes of a video file in base64"),
    ([{"text": "a"}, {"video": base64.b64encode(b"no video").decode()}], {}, "row 1: .*not a readable video"),
    ([{"title": "a title alone"}], {}, "row 0: neither a text nor a video"),
    ([{"text": ""}], {}, "row 0: neither a text nor a video"),
    ([{"text": "   \n"}], {}, "row 0: neither a text nor a video"),
    ([{"text": "a" * 100_000}], {}, "row 0: `text` has 100000 characters; expected at most 4000"),
    ([{"video": "../../etc/passwd"}], {}, "row 0: `video` must be the bytes of a video file in base64"),
    ([{"text": "a"}], {"storage": "int4"}, "storage 'int4': expected one of float32, float16, int8, binary"),
    ([{"text": "a" * 5000}], {}, "row 0: `text` has 5000 characters; expected at most 4000"),
    ([{"text": "a\ud800"}], {}, "half a surrogate pair|Failed to enforce schema"),
    ([{"text": "a"}] * 300, {}, "300 rows: expected at most 256"),
    ([{"name": "a"}], {}, "no rows with any of the columns"),
    ([{"text": "a"}], {"dim": 33}, "dim 33: expected 0"),
    ([{"text": "a"}], {"dim": -1}, "dim -1: expected 0"),
    ([{"text": "a"}], {"role": "boss"}, "role 'boss': expected one of query, target"),
    ([{"text": 7}], {}, "text"),
    ([{"video": 7}], {}, "row 0: `video` must be bytes, or base64 text; found int"),
    ({"text": ["a", "b"], "title": ["a"]}, {}, "columns of unequal length"),
]


@pytest.mark.parametrize(("rows", "params", "expected"), BAD_INPUT)
def test_bad_input_is_an_invalid_parameter_with_the_reason(loaded: Any, rows: Any, params: dict[str, Any], expected: str) -> None:
    with pytest.raises(MlflowException, match=expected) as caught:
        loaded.predict(rows, params=params)
    assert caught.value.get_http_status_code() == 400


def test_texts_do_not_wait_while_a_video_is_decoded(loaded: Any, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded.unwrap_python_model()._model
    decode, decoding, encoded = model.videos.frames, threading.Event(), threading.Event()

    def held(video: Any) -> Any:
        decoding.set()
        assert encoded.wait(60)
        return decode(video)

    monkeypatch.setattr(model.videos, "frames", held)
    with ThreadPoolExecutor(1) as pool:
        video = pool.submit(loaded.predict, pd.DataFrame([{"video": clip.read_bytes()}]))
        assert decoding.wait(60)
        assert loaded.predict(pd.DataFrame([{"text": "a red circle"}])).shape == (1, 32)
        encoded.set()
        assert video.result(60).shape == (1, 32)


def test_a_video_larger_than_the_limit_is_refused_undecoded(registered: Project) -> None:
    mlflow.set_registry_uri(registered.params.tracking.uri)
    small = mlflow.pyfunc.load_model("models:/reelnest@champion", model_config={"video_megabytes": 0.001})
    for video in (b"0" * 1001, base64.b64encode(b"0" * 1001).decode(), "0" * 4000):
        with pytest.raises(MlflowException, match=r"more than 0\.001 MB|at most 0\.001 MB"):
            small.predict(pd.DataFrame([{"video": video}]))


ALONE = """
import json, sys
sys.path = [entry for entry in sys.path if entry.rstrip("/") != sys.argv[1]]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "").lower()]
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[2])
rows = pandas.DataFrame([{"text": "a red circle"}, {"video": open(sys.argv[3], "rb").read()}])
vectors = model.predict(rows, params={"dim": 8}).tolist()
import reelnest
print(json.dumps({"vectors": vectors, "code": reelnest.__file__}))
"""


def test_the_model_contains_its_code(registered: Project, saved: reelnest.SavedModel, clip: Path, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(registered.params.tracking.uri)
    (logged,) = registered.workspace.root.glob("mlruns/*/models/*/artifacts")
    source = str(Path(reelnest.__file__).parents[1])
    command = [sys.executable, "-c", ALONE, source, str(logged), str(clip)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert Path(result["code"]).is_relative_to(logged)
    expected = [saved.encode_texts(["a red circle"], dim=8)[0], saved.encode_videos([clip], role="query", dim=8)[0]]
    np.testing.assert_allclose(result["vectors"], expected, atol=1e-5)


def test_mlflow_writes_a_dockerfile_that_serves_the_model(registered: Project, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(registered.params.tracking.uri)
    options = ["-m", "models:/reelnest@champion", "-d", str(tmp_path), "--env-manager", "local"]
    done = CliRunner().invoke(commands, ["generate-dockerfile", *options])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "Dockerfile").read_text(encoding="utf-8")
    assert "FROM python:" in text
    assert "C._serve('local')" in text
    (settings,) = tmp_path.rglob("reelnest.json")
    assert settings.with_name("model.safetensors").is_file()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(registered: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve`. All of its processes are ended afterwards."""
    address = f"http://127.0.0.1:{free_port()}"
    executables = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{executables}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": registered.params.tracking.uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [f"{executables}/mlflow", "models", "serve", "-m", "models:/reelnest@champion", "--env-manager", "local"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "-p", address.rpartition(":")[2]], env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(f"{address}/ping"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


def test_the_server_encodes_text_and_video_queries_at_a_dim(server: str, saved: reelnest.SavedModel, clip: Path) -> None:
    rows = [{"text": "a red circle"}, {"video": base64.b64encode(clip.read_bytes()).decode()}]
    response = requests.post(f"{server}/invocations", json={"dataframe_records": rows, "params": {"dim": 8}}, timeout=60)
    assert response.status_code == 200, response.text
    expected = [saved.encode_texts(["a red circle"], dim=8)[0], saved.encode_videos([clip], role="query", dim=8)[0]]
    np.testing.assert_allclose(response.json()["predictions"], expected, atol=1e-5)
    response = requests.post(
        f"{server}/invocations", json={"dataframe_records": rows, "params": {"dim": 8, "storage": "binary"}}, timeout=60
    )
    assert response.json()["predictions"] == np.packbits(np.stack(expected) > 0, axis=1).tolist()


@pytest.mark.parametrize(("rows", "params", "expected"), [case for case in BAD_INPUT if isinstance(case[0], list)])
def test_the_server_returns_400_for_bad_input(server: str, rows: Any, params: dict[str, Any], expected: str) -> None:
    response = requests.post(f"{server}/invocations", json={"dataframe_records": rows, "params": params}, timeout=60)
    assert response.status_code == 400
    assert "Traceback" not in response.text
