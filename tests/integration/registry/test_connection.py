"""The connection to MLflow, and quick errors with advice."""

import base64
import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest
import requests

from reelnest.addresses import without_credentials
from reelnest.errors import RegistryError, RegistryUnavailable
from reelnest.registry import reachable
from reelnest.registry.connection import connect, registry_errors
from reelnest.settings import Params, Tracking, tracking_uri
from tasks.process.dvc import RESUMABLE_STATUS


def at(uri: str, experiment: str = "reelnest") -> Params:
    return Params(tracking=Tracking(uri=uri, experiment=experiment))


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_the_experiment_is_created_once_with_its_artifacts_beside_the_database(store: str, tmp_path: Path) -> None:
    first, second = connect(at(store)), connect(at(store))
    assert first == second
    assert mlflow.get_experiment(first).artifact_location == (tmp_path / "mlruns" / "reelnest").as_uri()


def test_the_environment_is_not_changed(store: str) -> None:
    connect(at(store))
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert tracking_uri(at("sqlite:///other.db")) == "sqlite:///other.db"


def test_the_environments_address_overrides_params_yaml(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    connect(at("http://127.0.0.1:1"))
    assert os.environ["MLFLOW_TRACKING_URI"] == store


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:1", "does not respond at http://127.0.0.1:1"),
        ("http://user:secret@127.0.0.1:1", "does not respond at http://127.0.0.1:1"),
        ("sqlite:////nowhere/at/all/mlflow.db", "the folder /nowhere/at/all does not exist"),
        ("file:///tmp/mlruns", "MLflow 3 does not support"),
        ("mlruns", "MLflow 3 does not support"),
        ("postgresql://user:secret@127.0.0.1:1/mlflow", "postgresql://127.0.0.1:1/mlflow cannot be opened"),
    ],
)
def test_a_wrong_address_gives_an_error_with_advice(uri: str, expected: str) -> None:
    with pytest.raises(RegistryError, match=r"tracking\.uri") as caught:
        connect(at(uri))
    assert expected in str(caught.value)
    assert "secret" not in str(caught.value)


@contextlib.contextmanager
def http_server(status: int, signed_in_as: list[str | None] | None = None) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if signed_in_as is not None and self.path != "/health":
                signed_in_as.append(self.headers["Authorization"])
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_is_no_mlflow_is_reported(status: int) -> None:
    with (
        http_server(status) as uri,
        pytest.raises(RegistryError, match=f"No working MLflow server at {uri}: {uri}/health returned HTTP {status}"),
    ):
        connect(at(uri))


def test_an_error_of_a_proxy_means_that_the_server_is_away() -> None:
    with http_server(503) as uri, pytest.raises(RegistryUnavailable, match=r"does not respond at .* \(HTTP 503\)"):
        connect(at(uri))


def test_a_stage_whose_server_is_away_ends_with_the_status_for_a_retry() -> None:
    with pytest.raises(RegistryUnavailable) as caught:
        connect(at("http://127.0.0.1:1"))
    assert caught.value.exit_status == RESUMABLE_STATUS


def test_a_server_that_never_responds_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "HEALTH_TIMEOUT_SECONDS", 0.3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(RegistryUnavailable, match="does not respond"):
            connect(at(f"http://127.0.0.1:{listener.getsockname()[1]}"))


def test_a_deleted_experiment_gives_an_error_with_the_command_to_restore_it(store: str) -> None:
    experiment = connect(at(store))
    mlflow.delete_experiment(experiment)
    with pytest.raises(RegistryError, match=f"mlflow experiments restore -x {experiment}"):
        connect(at(store))


def test_a_password_in_the_address_signs_in_and_is_never_printed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(variable, "")  # restored at the end
    signed_in_as: list[str | None] = []
    with http_server(200, signed_in_as) as uri:
        with pytest.raises(RegistryError) as caught:  # its responses are not those of MLflow
            connect(at(uri.replace("http://", "http://me:s%2Fcret@")))
        assert mlflow.get_tracking_uri() == uri
    assert set(signed_in_as) == {"Basic " + base64.b64encode(b"me:s/cret").decode()}
    assert "cret" not in str(caught.value) + caplog.text


def test_credentials_are_removed_from_addresses() -> None:
    assert without_credentials("https://me:secret@host:5000/path") == "https://host:5000/path"
    assert without_credentials("sqlite:///a@b/mlflow.db") == "sqlite:///a@b/mlflow.db"


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError("no disk"), RegistryError), (requests.ConnectionError("no disk"), RegistryUnavailable)]
)
def test_an_error_of_mlflow_s_storage_says_what_failed_and_what_to_do(error: OSError, kind: type[RegistryError]) -> None:
    with (
        pytest.raises(RegistryError, match=r"^The report failed: no disk\. Run the command again\.$") as raised,
        registry_errors("The report failed"),
    ):
        raise error
    assert type(raised.value) is kind
