"""Reading DVC's files, compared with DVC itself."""

import copy
from pathlib import Path
from typing import Any

import pytest
from dvc.fs import LocalFileSystem
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB

from reelnest.errors import RegistryError
from reelnest.registry.lineage.dvc_lock import cache_folder, differing_inputs, dvc_hash, read_yaml, remote_name, stale_inputs


def dvc_hash_of(path: Path, cache: Path) -> str:
    files = LocalFileSystem()
    value: str = build(HashFileDB(files, str(cache)), str(path), files, "md5", dry_run=True)[2].hash_info.value
    return value


def test_hashes_of_files_and_folders_equal_dvc(tmp_path: Path) -> None:
    folder = tmp_path / "src"
    for name in ("b.py", "a/ü.py", "a.txt", "a/empty", "B"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name if "empty" not in name else "")
    ours = dvc_hash(folder)
    assert ours == dvc_hash_of(folder, tmp_path / "cache")
    assert dvc_hash(folder / "b.py") == dvc_hash_of(folder / "b.py", tmp_path / "cache")
    (folder / "a" / "__pycache__").mkdir()
    (folder / "a" / "__pycache__" / "b.cpython-311.pyc").write_bytes(b"1")
    assert dvc_hash(folder) == ours
    assert dvc_hash(folder / "nothing") is None


@pytest.fixture
def lock(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("one")
    (tmp_path / "params.yaml").write_text("train: {epochs: 1, seed: 0}\ndata: {text_fields: null}\n")
    deps = [
        {"path": "src/train.py", "md5": dvc_hash(tmp_path / "src" / "train.py")},
        {"path": "data", "md5": "d1.dir"},
        {"path": "models/candidate", "md5": "m1.dir"},
    ]
    params = {"params.yaml": {"train": {"epochs": 1, "seed": 0}, "data.text_fields": None}}
    return {"schema": "2.0", "stages": {"train": {"cmd": "reelnest train", "deps": deps, "params": params}}}


def test_code_and_settings_that_changed_since_the_run_are_named(lock: dict[str, Any], tmp_path: Path) -> None:
    assert stale_inputs(lock, tmp_path) == []
    (tmp_path / "src" / "train.py").write_text("two")
    (tmp_path / "params.yaml").write_text("train: {epochs: 2, seed: 0}\ndata: {text_fields: null}\n")
    assert stale_inputs(lock, tmp_path) == ["train: src/train.py", "train: train"]


def test_two_runs_differ_in_data_code_and_single_settings_and_not_in_where_the_model_was_recorded(lock: dict[str, Any]) -> None:
    changed = copy.deepcopy(lock)
    changed["stages"]["train"]["deps"][2]["md5"] = "m2.dir"
    assert differing_inputs(lock, changed) == []
    changed["stages"]["train"]["deps"][1]["md5"] = "d2.dir"
    changed["stages"]["train"]["params"]["params.yaml"]["train"]["epochs"] = 2
    assert differing_inputs(lock, changed) == ["train: data", "train: train.epochs"]


def test_settings_are_read_by_yaml_1_2_as_dvc_writes_them(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text("a: no\nb: true\nc: 1e-3\nd: 12\ne: -0.5\nf: null\ng: 'no'\n")
    assert read_yaml(tmp_path / "dvc.lock") == {"a": "no", "b": True, "c": 0.001, "d": 12, "e": -0.5, "f": None, "g": "no"}


def test_a_broken_lock_file_is_refused_and_a_missing_one_is_none(tmp_path: Path) -> None:
    assert read_yaml(tmp_path / "dvc.lock") is None
    (tmp_path / "dvc.lock").write_text("stages: {")
    with pytest.raises(RegistryError, match=r"(?s)dvc\.lock: not readable as YAML.*Run `dvc repro`"):
        read_yaml(tmp_path / "dvc.lock")


def test_remote_and_cache_are_those_that_dvc_is_configured_with(tmp_path: Path) -> None:
    assert (remote_name(tmp_path), cache_folder(tmp_path)) == (None, tmp_path / ".dvc" / "cache")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = team\n['remote \"team\"']\n    url = s3://x/y%z\n")
    (tmp_path / ".dvc" / "config.local").write_text("[cache]\n    dir = /shared/cache\n")
    assert (remote_name(tmp_path), cache_folder(tmp_path)) == ("team", Path("/shared/cache"))
