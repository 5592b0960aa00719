"""A run's worktree, with real git and DVC: what it refuses, and what becomes of it when its run is cut off."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reelnest.errors import RunError
from tasks.process.runner import setting
from tasks.workspaces.run_folders import RUNS, remove_orphaned_workspaces, run_id
from tasks.workspaces.run_workspace import run_workspace

HOLD = """
import sys, time
from pathlib import Path
from tasks.workspaces.run_workspace import run_workspace
with run_workspace(Path.cwd(), "held", "held", "HEAD", {}):
    print("ready", flush=True)
    time.sleep(600)
"""


def enter(checkout: Path, revision: str = "HEAD", settings: dict[str, Any] | None = None) -> None:
    with run_workspace(checkout, "r1", "name", revision, settings or {}):
        pass


def test_what_cannot_be_run_is_refused_and_leaves_nothing(repository: Path) -> None:
    with pytest.raises(RunError, match="has no commit 'nowhere'"):
        enter(repository, revision="nowhere")
    with pytest.raises(RunError, match=r"has no train\.y; did you mean train\.x\?"):
        enter(repository, settings={"train.y": 1})
    with pytest.raises(RunError, match="repository's top folder"):
        enter(repository / "data")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "rm", "--quiet", "--cached", "data.dvc"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=No data"], check=True)
    with pytest.raises(RunError, match=r"'HEAD' has no data\.dvc"):
        enter(repository)
    shutil.rmtree(repository / ".dvc" / "cache")
    with pytest.raises(RunError, match=r"(?s)is not in DVC's cache\..*dvc add data"):
        enter(repository, revision="HEAD~1")
    assert not list((repository / RUNS).glob("*/"))
    assert subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True).stdout.count("\n") == 1


def test_a_run_sees_committed_code_shared_checkpoints_and_the_checkouts_mlflow(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (repository / "work" / "checkpoints").mkdir(parents=True)
    (repository / "work" / "checkpoints" / "key").touch()
    (repository / "params.yaml").write_text("train: {x: 99}\n")
    with run_workspace(repository, "r1", "name", "HEAD", {"train.x": [1, 2]}) as workspace:
        assert Path.cwd() == workspace.folder
        assert "x: 99" not in Path("params.yaml").read_text()
        assert "x: [1, 2]" in Path("params.yaml").read_text()
        assert Path("work/checkpoints/key").exists()
        assert setting("MLFLOW_TRACKING_URI") == f"sqlite:///{repository}/mlflow.db"
        shutil.rmtree(workspace.folder)
        with pytest.raises(RunError, match="was removed while its run was active"):
            workspace.check()
    assert Path.cwd() == repository
    assert setting("MLFLOW_TRACKING_URI") is None
    enter(repository)


def test_a_killed_runs_worktree_is_removed_and_a_running_ones_is_not(repository: Path, child_environment: dict[str, str]) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], env=child_environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        assert remove_orphaned_workspaces(repository) == []
        with pytest.raises(RunError, match=r"is already active in"), run_workspace(repository, "held", "held", "HEAD", {}):
            pass
        folder = repository / RUNS / run_id("held")
        assert (folder / "data").is_dir()
        run.send_signal(signal.SIGKILL)
        run.wait(20)
    (folder / ".git").unlink()  # as half made
    assert remove_orphaned_workspaces(repository) == [run_id("held")]
    assert not list((repository / RUNS).iterdir())
    enter(repository)
