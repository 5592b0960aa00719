"""Models beyond 5 GB, the largest object of S3 that is not sent in parts, as sparse files through MLflow's server to the S3 store.

Usage: `pytest -m series tests/end_to_end/test_large_files.py`. Needs 45 GB of disk: SeaweedFS stores the zeros too.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import mlflow
import pytest

from reelnest.registry.connection import connect
from reelnest.settings import Params, Tracking
from tests.end_to_end.compose_services import Services

pytestmark = [pytest.mark.series, pytest.mark.timeout(3600)]
GIGABYTE = 10**9
MARK = 1000


@pytest.fixture
def services() -> Iterator[Services]:
    folder = Path(tempfile.mkdtemp(prefix="reelnest-large-"))  # pytest's own folders are closed to the user postgres
    folder.chmod(0o755)
    (folder / "project").mkdir()
    running = Services(folder, folder / "project")
    try:
        running.start("postgres", "store", "mlflow")
        running.run("provision")
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


@pytest.mark.parametrize("gigabytes", [7, 16])
def test_a_large_file_is_uploaded_in_parts_past_the_server(gigabytes: int, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "worker")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", services.secret("mlflow_worker_password"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = connect(Params(tracking=Tracking(uri=services.url("mlflow"), experiment="large")))
    client = mlflow.MlflowClient()
    run = client.create_run(experiment).info
    path = services.folder / "model.safetensors"
    size = gigabytes * GIGABYTE
    marks = {at: os.urandom(MARK) for at in (0, 5 * GIGABYTE, size - MARK)}
    with path.open("wb") as file:
        file.truncate(size)
        for at, mark in marks.items():
            file.seek(at)
            file.write(mark)
    client.log_artifact(run.run_id, str(path), "model")
    (listed,) = client.list_artifacts(run.run_id, "model")
    assert listed.file_size == size
    store = boto3.client(
        "s3",
        endpoint_url=services.url("store"),
        region_name="us-east-1",
        aws_access_key_id=services.secret("s3_access_key"),
        aws_secret_access_key=services.secret("s3_secret_key"),
    )
    key = f"{run.artifact_uri.removeprefix('mlflow-artifacts:/').lstrip('/')}/{listed.path}"
    for at, mark in marks.items():
        assert store.get_object(Bucket="mlflow", Key=key, Range=f"bytes={at}-{at + MARK - 1}")["Body"].read() == mark
