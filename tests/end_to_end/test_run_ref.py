"""A run that a deployment made, taken up elsewhere: by its ref and the remotes alone, and rebuilt from its data and settings."""

import json
from pathlib import Path

import pytest

from reelnest.commands.runs import Run, saved_runs
from tests.support.running_services import ended, running_services, start
from tests.support.small_project import make_quick_project, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def remotes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remotes")


@pytest.fixture(scope="module")
def kept(remotes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of a run that began with a project's only commit, and settings of its own."""
    project = tmp_path_factory.mktemp("run-ref") / "project"
    make_quick_project(project)
    run(["git", "init", "--quiet", "--bare", str(remotes / "project.git")], project)
    run(["git", "remote", "add", "origin", str(remotes / "project.git")], project)
    run(["dvc", "remote", "add", "--default", "store", str(remotes / "store")], project)
    run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "A remote"], project)
    run(["git", "push", "--quiet", "origin", "HEAD:main"], project)
    with running_services(project) as api:
        (made,) = ended(api, [start(api, "reelnest-train/by-hand", settings={"train.learning_rate": 0.004, "runs.push": "origin"})])
    assert made.state is not None
    assert made.state.is_completed(), made.state.message
    (found,) = saved_runs(project)
    return found


def cloned(kept: Run, remotes: Path, folder: Path) -> Path:
    run(["git", "clone", "--quiet", "--branch", "main", str(remotes / "project.git"), str(folder)], remotes)
    run(["git", "fetch", "--quiet", "origin", f"{kept.ref}:{kept.ref}"], folder)
    run(["git", "switch", "--quiet", "--detach", kept.ref], folder)
    return folder


def test_with_the_cache_nothing_is_executed(kept: Run, remotes: Path, tmp_path: Path) -> None:
    clone = cloned(kept, remotes, tmp_path / "clone")
    run(["dvc", "pull", "--run-cache"], clone)
    assert "Running stage" not in run(["dvc", "repro"], clone)
    assert json.loads((clone / "reports" / "metrics.json").read_text()) == kept.metrics
    assert run(["git", "status", "--porcelain"], clone) == ""


def test_without_the_cache_the_same_metrics_are_rebuilt(kept: Run, remotes: Path, tmp_path: Path) -> None:
    clone = cloned(kept, remotes, tmp_path / "clone")
    run(["dvc", "pull", "data.dvc"], clone)
    for stage in ("validate", "preprocess", "train", "evaluate"):
        assert f"Running stage '{stage}'" in run(["dvc", "repro", stage], clone)
    assert json.loads((clone / "reports" / "metrics.json").read_text()) == kept.metrics
