"""Versions that are looked up without MLflow, compared with what MLflow itself returns from its database and from its server."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.server import app
from mlflow.server.handlers import initialize_backend_stores
from werkzeug.serving import make_server

from reelnest.errors import NothingTracked, RegistryError, RegistryUnavailable
from reelnest.registry.known_versions import KnownVersion, known_version, named_version
from reelnest.settings import Params, Tracking

MISSING = [
    ("models:/reelnest@nobody", "No version of 'reelnest' has the alias 'nobody'. See `reelnest models`."),
    ("nobody", "No version of 'reelnest' has the alias 'nobody'. See `reelnest models`."),
    ("models:/reelnest/99", "Model 'reelnest' has no version 99. See `reelnest models`."),
    ("3", "Model 'reelnest' has no version 3. See `reelnest models`."),  # deleted
    ("models:/reelnst@champion", "MLflow has no model 'reelnst' yet. Run `reelnest register`."),
]


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store with three versions, of which the last is deleted."""
    file = tmp_path_factory.mktemp("versions") / "ml flow#.db"
    shutil.copy(empty_store, file)
    uri = f"sqlite:///{file}"
    client = mlflow.MlflowClient(uri, uri)
    client.create_registered_model("reelnest")
    for number in range(3):
        client.create_model_version("reelnest", source="file:///nowhere", tags={"reelnest.model_hash": f"hash-{number + 1}"})
    client.create_registered_model("empty")
    client.set_registered_model_alias("reelnest", "champion", "2")
    client.delete_model_version("reelnest", "3")
    return uri


@pytest.fixture(scope="module")
def server(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's server on that store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
        initialize_backend_stores(store, store, tmp_path_factory.mktemp("artifacts").as_uri())
        serving = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()
        serving.server_close()


def params_of(uri: str) -> Params:
    return Params(tracking=Tracking(uri=uri))


@pytest.mark.parametrize("kind", ["store", "server"])
def test_a_version_is_the_one_that_mlflow_returns(kind: str, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue(kind)
    client = mlflow.MlflowClient(uri, uri)
    champion = client.get_model_version_by_alias("reelnest", "champion")
    expected = KnownVersion(int(champion.version), champion.tags["reelnest.model_hash"])
    params = params_of(uri)
    assert known_version(params, "models:/reelnest@champion") == known_version(params, "champion", "reelnest") == expected
    assert known_version(params, "1", "reelnest") == KnownVersion(1, "hash-1")
    assert known_version(params, "latest", "reelnest") is None  # MLflow computes it


@pytest.mark.parametrize(("which", "message"), MISSING)
@pytest.mark.parametrize("kind", ["store", "server"])
def test_a_version_that_mlflow_lacks_is_named(kind: str, which: str, message: str, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue(kind)
    name, number_or_alias = named_version(which, "reelnest")
    client = mlflow.MlflowClient(uri, uri)
    with pytest.raises(MlflowException):
        (client.get_model_version if number_or_alias.isdecimal() else client.get_model_version_by_alias)(name, number_or_alias)
    with pytest.raises(RegistryError) as raised:
        known_version(params_of(uri), which, "reelnest")
    assert str(raised.value) == message


@pytest.mark.parametrize("which", ["models:/reelnest", "models:/", "models:/a/b@c", "models:/reelnest/latest"])
def test_another_form_is_refused_with_the_expected_ones(which: str) -> None:
    with pytest.raises(RegistryError, match="expected models:/NAME@ALIAS or models:/NAME/VERSION"):
        named_version(which, "reelnest")


def test_without_a_database_or_a_server_the_error_is_about_that(tmp_path: Path) -> None:
    with pytest.raises(NothingTracked, match="no database"):
        known_version(params_of(f"sqlite:///{tmp_path}/mlflow.db"), "models:/reelnest@champion")
    with pytest.raises(RegistryUnavailable, match="MLflow does not respond"):
        known_version(params_of("http://127.0.0.1:9"), "models:/reelnest@champion")


def test_a_database_that_cannot_be_read_is_left_to_mlflow(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    assert known_version(params_of(f"sqlite:///{tmp_path}/mlflow.db"), "models:/reelnest@champion") is None


@pytest.mark.parametrize(
    "call",
    [
        "known_version(Params(tracking=Tracking(uri=sys.argv[1])), '99', 'reelnest')",
        "reelnest.load('models:/reelnest@nobody')",
        "reelnest.load('nowhere')",
    ],
)
def test_a_wrong_name_is_found_before_anything_slow_is_imported(call: str, store: str, tmp_path: Path) -> None:
    code = (
        "import os, sys, reelnest\n"
        "from reelnest.errors import ReelnestError\n"
        "from reelnest.registry.known_versions import known_version\n"
        "from reelnest.settings import Params, Tracking\n"
        "os.environ['MLFLOW_TRACKING_URI'] = sys.argv[1]\n"
        f"try: {call}\n"
        "except ReelnestError: print([name for name in ('torch', 'transformers', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, store], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"
