"""What a clean-up removes of past runs, and what it keeps: with real git and DVC, and a real MLflow store."""

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from reelnest.artifacts.registration_report import RegistrationReport
from reelnest.commands.runs import Run, saved_runs
from reelnest.git import git
from reelnest.registry.connection import connect
from reelnest.registry.versions.retention import Registered
from reelnest.settings import load_params
from tasks.process import dvc_cache
from tasks.workspaces.retention import Plan, carry_out, runs_to_remove, stale_checkpoints
from tasks.workspaces.run_workspace import run_workspace
from tests.support import reports

RUN = Run("r0", "name", "HEAD", "b", {}, "s", "e", "done", "d")


def a_run(number: int, version: int | None = None) -> Run:
    registration = None if version is None else RegistrationReport.from_content(reports.registration(version=version), Path())
    return replace(RUN, id=f"r{number}", registration=registration)


def test_the_newest_runs_stay_and_those_behind_a_champion_or_an_alias() -> None:
    runs = [a_run(5, 5), a_run(4, 4), a_run(3, 3), a_run(2, 2), a_run(1, 1), a_run(0)]
    versions = [Registered(number, f"m{number}", stays=number in (1, 3)) for number in range(1, 6)]
    assert [run.id for run in runs_to_remove(runs, versions, keep=2)] == ["r2", "r0"]
    assert [run.id for run in runs_to_remove(runs, versions, keep=0)] == ["r5", "r4", "r2", "r0"]
    assert runs_to_remove(runs, versions, keep=9) == []


def test_only_trainings_that_nobody_resumed_lose_their_checkpoints(tmp_path: Path) -> None:
    old = time.time() - 40 * 86400
    for name, finished, age in (("cut-off", False, old), ("resumable", False, time.time()), ("finished", True, old)):
        folder = tmp_path / "work" / "checkpoints" / name
        folder.mkdir(parents=True)
        for file in ["step-1.pt", *(["finished"] if finished else [])]:
            (folder / file).touch()
            os.utime(folder / file, (age, age))
        os.utime(folder, (age, age))
    (tmp_path / "work" / "checkpoints" / "just begun").mkdir()
    assert [folder.name for folder in stale_checkpoints(tmp_path, days=30)] == ["cut-off"]


@pytest.mark.usefixtures("prefect_server")
def test_a_clean_up_that_was_interrupted_can_be_repeated(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("params.yaml", "configs/accelerate/cpu-2.yaml"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).parents[3] / name, repository / name)
    connect(load_params(repository / "params.yaml"))
    client = MlflowClient()
    gone, left, other = (client.create_run("0") for _ in range(3))
    for run in (gone, left, other):
        client.log_text(run.info.run_id, "x", "file.txt")
    carry_out(Plan(mlflow_runs=[gone.info.run_id]), repository)
    assert not Path(urlparse(gone.info.artifact_uri).path).exists()
    # Its reference was not removed yet, so the next plan names it again.
    carry_out(Plan(mlflow_runs=[gone.info.run_id, left.info.run_id]), repository)
    found = client.search_runs(["0"], run_view_type=ViewType.ALL)
    assert [run.info.run_id for run in found] == [other.info.run_id]


def test_the_cache_keeps_what_branches_the_workspace_and_saved_runs_name(repository: Path) -> None:
    kept = []
    for text in ("first", "second"):
        with run_workspace(repository, text, text, "HEAD", {}) as workspace:
            (workspace.folder / "prepared").mkdir()
            (workspace.folder / "prepared" / "x").write_text(text)
            # One stage's output is enough: `dvc commit` records it as if the stage had run.
            (workspace.folder / "dvc.yaml").write_text("stages: {p: {cmd: 'true', outs: [prepared]}}\n")
            subprocess.run(["dvc", "commit", "--quiet", "--force"], cwd=workspace.folder, check=True)
            kept.append(workspace.save("p ran"))
    assert {run.flow_run for run in saved_runs(repository)} == {"first", "second"}
    assert dvc_cache.collect_garbage(repository, [run.commit for run in kept], dry=True) == 0
    assert dvc_cache.collect_garbage(repository, [kept[1].commit], dry=False) == 2  # the folder and its file
    with run_workspace(repository, "again", "again", kept[1].commit, {}) as workspace:
        subprocess.run(["dvc", "checkout", "--quiet"], cwd=workspace.folder, check=True)
        assert (workspace.folder / "prepared" / "x").read_text() == "second"
        assert (workspace.folder / "data" / "pairs.jsonl").is_file()


def test_the_cache_keeps_each_version_of_the_data_that_was_committed_whatever_versions_it_lacks(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("second", "third"):
        (repository / "data" / "pairs.jsonl").write_text(text)
        subprocess.run(["dvc", "add", "--quiet", "data"], cwd=repository, check=True)
        git(repository, "commit", "--quiet", "--all", "--message", text)
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "Nothing of DVC")
    first, *_ = git(repository, "log", "--reverse", "--format=%H").split()
    (line,) = [line for line in git(repository, "show", f"{first}:data.dvc").splitlines() if "md5:" in line]
    listing = line.split()[-1]
    cache = repository / ".dvc" / "cache" / "files" / "md5"
    (cache / listing[:2] / listing[2:]).unlink()  # as in a clone that was made after the data had changed
    with caplog.at_level("WARNING", logger="dvc"):
        assert dvc_cache.collect_garbage(repository, [], dry=False) == 1  # the file of which no listing is left
    assert not [record for record in caplog.records if record.name.startswith("dvc")]
    for text, commit in (("third", "HEAD"), ("second", "HEAD~2")):
        git(repository, "checkout", "--quiet", "--detach", commit)
        subprocess.run(["dvc", "checkout", "--quiet", "data.dvc"], cwd=repository, check=True)
        assert (repository / "data" / "pairs.jsonl").read_text() == text


@pytest.mark.usefixtures("prefect_server")
def test_data_is_told_once_and_not_when_a_run_was_made_from_it(repository: Path) -> None:
    from tasks.workspaces import data_arrival

    found = data_arrival.arrived(repository, "HEAD")
    assert found is not None
    assert found["commit"] == kept_commit(repository)
    data_arrival.notify(found)
    assert data_arrival.arrived(repository, "HEAD") is None
    (repository / "data.dvc").write_text((repository / "data.dvc").read_text() + "desc: newer\n")
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "Newer"], check=True)
    assert data_arrival.arrived(repository, "HEAD") is not None
    with run_workspace(repository, "trained", "trained", "HEAD", {}) as workspace:
        workspace.save("validate ran")
    assert data_arrival.arrived(repository, "HEAD") is None


def kept_commit(folder: Path) -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
