"""Asking a real DVC what is stale, and running single stages."""

import os
import shutil
from pathlib import Path

import pytest

from tasks.process import dvc, dvc_cache

LINES: list[str] = []


def run(stage: str, folder: Path) -> dvc.Outcome:
    return dvc.reproduce(stage, folder, on_line=LINES.append)


def test_a_stage_runs_once_and_comes_back_from_the_cache(project: Path) -> None:
    assert set(dvc.changed_stages(project)) == {"validate", "preprocess", "train", "evaluate"}
    assert run("validate", project) == "ran"
    assert run("validate", project) == "unchanged"
    assert "validate" not in dvc.changed_stages(project)

    pairs = project / "data" / "pairs.jsonl"
    first = pairs.read_text()
    pairs.write_text(first * 2)
    assert "validate" in dvc.changed_stages(project)
    assert run("validate", project) == "ran"
    pairs.write_text(first)
    assert run("validate", project) == "restored"


def test_a_changed_setting_makes_only_its_own_stage_stale(project: Path) -> None:
    for stage in ("validate", "preprocess"):
        run(stage, project)
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("preprocess: {x: 1}", "preprocess: {x: 2}"))
    changed = dvc.changed_stages(project)
    assert "preprocess" in changed
    assert "validate" not in changed


def test_a_record_that_a_killed_dvc_left_empty_keeps_no_stage_from_running(project: Path, tmp_path: Path) -> None:
    run("validate", project)
    (record,) = (project / ".dvc" / "cache" / "runs").glob("*/*/*")
    record.unlink()
    os.utime(record.parent, (0, 0))
    worktree = tmp_path / "worktree"
    shutil.copytree(project, worktree)
    (worktree / "dvc.lock").unlink()
    dvc_cache.share_cache(project, worktree)
    assert run("validate", worktree) == "ran"


@pytest.mark.parametrize(
    ("behaviour", "interrupted", "told"),
    [
        ("refuse", False, "failed. data/pairs.jsonl: line 3: not JSON"),
        ("fail", False, "RuntimeError: a bug"),
        ("die-once", True, "validate: rank 0 was ended by SIGKILL."),
    ],
)
def test_a_failed_stage_is_tried_again_only_where_it_was_interrupted(project: Path, behaviour: str, interrupted: bool, told: str) -> None:
    (project / "behaviour.txt").write_text(f"validate {behaviour}")
    with pytest.raises(dvc.StageError) as failure:
        run("validate", project)
    assert failure.value.interrupted is interrupted
    assert told in str(failure.value)
    assert not (project / "dvc.lock").exists()
