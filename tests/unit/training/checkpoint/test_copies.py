"""Copies of checkpoints at an address: complete or not there, in step with the folder, and read by a machine that lacks them."""

import shutil
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from reelnest.errors import ConfigError
from reelnest.training.checkpoint.checkpoints import Checkpoints
from reelnest.training.checkpoint.copies import CheckpointCopies


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def trained(root: Path, address: str, *steps: int, key: str = "key") -> Checkpoints:
    """A training that saved these steps, all with a shard, the last as the best."""
    checkpoints = Checkpoints(root, key, address)
    checkpoints.write_runs({"mlflow": f"run of {root.name}"})
    for step in steps:
        checkpoints.save_shard(step, {"weights": torch.tensor(float(step))})
        checkpoints.save_best({"weight": torch.tensor([float(step)])}, step)
        checkpoints.save(step, {"step": step, "shards": 1}, keep=2)
    checkpoints.wait_for_copies()
    return checkpoints


@pytest.mark.parametrize("scheme", ["", "file://", "fsspec+file://"])
def test_a_machine_without_the_folder_resumes_from_its_copies(tmp_path: Path, scheme: str) -> None:
    address = f"{scheme}{tmp_path}/copies/of-trainings"
    first = trained(tmp_path / "first", address, 5, 10, 115)
    assert names(tmp_path / "copies" / "of-trainings" / "key") == names(first.folder)
    second = Checkpoints(tmp_path / "second", "key", address)
    second.fetch(is_local_main=True)
    assert {name: (second.folder / name).read_bytes() for name in names(second.folder)} == {
        name: (first.folder / name).read_bytes() for name in names(first.folder)
    }
    state = second.load_last()
    assert state is not None
    assert (state["step"], state["shard"]["weights"].item()) == (115, 115.0)


def test_the_newer_of_folder_and_copies_counts_with_its_best_weights(tmp_path: Path) -> None:
    address = str(tmp_path / "copies")
    behind = trained(tmp_path / "behind", address, 5)
    ahead = trained(tmp_path / "ahead", address, 5, 10)
    behind.fetch(is_local_main=True)
    assert behind.best_weights()["weight"].item() == 10
    assert behind.read_runs() == {"mlflow": "run of ahead"}
    shutil.rmtree(tmp_path / "copies")
    trained(tmp_path / "behind again", address, 7)
    ahead.fetch(is_local_main=True)
    assert ahead.best_weights()["weight"].item() == 10
    assert [path for path in names(ahead.folder) if path.endswith(".pt")] == ["step-00000005.pt", "step-00000010.pt"]


def test_processes_that_share_a_disk_fetch_only_their_shards(tmp_path: Path) -> None:
    address = str(tmp_path / "copies")
    trained(tmp_path / "first", address, 5)
    second = Checkpoints(tmp_path / "second", "key", address)
    second.fetch(is_local_main=False)
    assert names(second.folder) == ["step-00000005.shard-0-of-1"]


def test_copies_of_finished_trainings_are_removed_by_the_next_that_finishes(tmp_path: Path) -> None:
    address = str(tmp_path / "copies")
    for key in ("finished", "killed", "mine"):
        checkpoints = trained(tmp_path / "work", address, 1, key=key)
        if key != "killed":
            checkpoints.finish()
            checkpoints.wait_for_copies()
    assert names(tmp_path / "copies") == ["killed", "mine"]


def test_a_copy_that_is_cut_off_has_another_name_and_the_next_one_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = str(tmp_path / "copies")
    whole = fs.copy_files

    def cut_off(source: str, place: str, *others: object, **options: object) -> None:
        whole(source, place, *others, **options)
        Path(place).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "copy_files", cut_off)
        first = trained(tmp_path / "first", address, 5)
    assert "No space left on device. The training goes on." in caplog.text
    second = Checkpoints(tmp_path / "second", "key", address)
    second.fetch(is_local_main=True)
    assert second.load_last() is None
    first.save(10, {"step": 10}, keep=2)
    first.wait_for_copies()
    second.fetch(is_local_main=True)
    assert second.load_last() == {"step": 10}


def test_an_address_that_cannot_be_written_does_not_stop_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = trained(tmp_path, "/dev/null/folder", 5)
    assert "(/dev/null/folder): [Errno 20]" in caplog.text
    assert "The training goes on." in caplog.text
    assert checkpoints.load_last() is not None


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://key:secret@bucket/folder", "contains a password"),
        ("ftp://host/folder", "ftp://host/folder cannot be opened"),
        ("checkpoints", "Expected an address such as s3://bucket/folder"),
        ("", "cannot be opened"),
    ],
)
def test_an_unusable_address_is_refused_before_the_training(address: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        CheckpointCopies(address, tmp_path)
    assert "secret" not in str(refused.value)
