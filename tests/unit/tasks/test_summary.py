"""The summary at the end of a run."""

import subprocess
from pathlib import Path

import pytest

from reelnest.stages.workspace import Workspace
from tasks.pages.summary import INPUTS, summary
from tests.support.small_project import COMMIT

WARNING = "A scheduled run uses the last commit"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in INPUTS:
        (tmp_path / name).write_text("committed\n")
    for command in (["git", "init", "-q"], ["git", "add", "."], [*COMMIT, "-m", "The project"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def test_changes_that_a_scheduled_run_would_not_see_are_named(project: Path) -> None:
    assert WARNING not in summary(Workspace(project))
    (project / "reports.txt").write_text("not an input\n")
    assert WARNING not in summary(Workspace(project))
    (project / "data.dvc").write_text("other data\n")
    assert "Not committed: data.dvc. A scheduled run uses the last commit" in summary(Workspace(project))
    assert "git add data.dvc dvc.lock && git commit" in summary(Workspace(project))
    subprocess.run([*COMMIT, "-am", "Other data"], cwd=project, check=True)
    assert WARNING not in summary(Workspace(project))


def test_data_that_git_does_not_know_yet_is_named(project: Path) -> None:
    subprocess.run(["git", "rm", "-q", "--cached", "data.dvc"], cwd=project, check=True)
    subprocess.run([*COMMIT, "-m", "No data"], cwd=project, check=True)
    assert "Not committed: data.dvc" in summary(Workspace(project))


def test_a_folder_without_git_has_no_warning(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text("")
    assert WARNING not in summary(Workspace(tmp_path))
