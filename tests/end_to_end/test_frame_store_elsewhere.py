"""The frame store reaches another machine through DVC's remote, as docs/scale.md says."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.small_project import COMMIT, change, make_project, run

pytestmark = pytest.mark.slow


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def push(project: Path) -> None:
    run(["dvc", "push"], project)
    run(["git", "add", ".dvc/config", "dvc.lock", "data.dvc"], project)
    run([*COMMIT, "-m", "A run"], project)


def test_a_clone_fetches_the_frame_store_and_the_shards_that_change(tmp_path: Path) -> None:
    project, clone, remote = tmp_path / "project", tmp_path / "clone", tmp_path / "remote"
    project.mkdir()
    make_project(project)
    change(project, preprocess={"shard_megabytes": 1})
    run([*COMMIT, "-am", "Small shards"], project)
    run(["dvc", "remote", "add", "--default", "store", str(remote)], project)
    run(["dvc", "repro", "preprocess"], project)
    push(project)

    run(["git", "clone", "-q", str(project), str(clone)], tmp_path)
    run(["dvc", "pull", "preprocess"], clone)
    assert content(clone / "prepared") == content(project / "prepared")
    assert not (clone / "data").exists()
    run(["reelnest", "train"], clone)
    assert (clone / "models" / "candidate").is_dir()
    run(["dvc", "pull", "data.dvc", "validate", "preprocess"], clone)
    assert "Data and pipelines are up to date" in run(["dvc", "status", "preprocess"], clone)

    before = content(project / "prepared" / "store")
    assert len(before) > 4
    shutil.copy(project / "data" / "videos" / "clip-0001.mp4", project / "data" / "videos" / "more.mp4")
    with (project / "data" / "videos.jsonl").open("a") as videos:
        videos.write(json.dumps({"video_id": "more", "path": "videos/more.mp4"}) + "\n")
    run(["dvc", "add", "data"], project)
    run(["dvc", "repro", "preprocess"], project)
    stored = set(remote.rglob("*"))
    push(project)
    after = content(project / "prepared" / "store")
    changed = set(after.values()) - set(before.values())
    assert len(changed) <= 4  # its shard, perhaps a neighbour, and the index
    new = [file.stat().st_size for file in set(remote.rglob("*")) - stored if file.is_file()]
    assert sum(new) < 0.8 * sum(map(len, after.values()))
    run(["git", "pull", "-q"], clone)
    run(["dvc", "pull", "preprocess"], clone)
    assert content(clone / "prepared" / "store") == after
