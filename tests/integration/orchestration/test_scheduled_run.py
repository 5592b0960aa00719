"""Deployments' runs, with a real Prefect server, DVC and git: two at once, what is kept of them, and doing it again."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.scheduled import scheduled_pipeline
from reelnest.commands.runs import Run, saved_runs, table
from tasks import stages

REGISTER = (sys.executable, "stand_in_stage.py", "register")
RUN = f"""
import sys, json
from flows.scheduled import scheduled_pipeline
from tasks import stages
stages.REGISTER = {REGISTER!r}
state = scheduled_pipeline(settings=json.loads(sys.argv[1]), return_state=True)
sys.exit(0 if state.is_completed() else state.message)
"""


@dataclass(frozen=True)
class Overlap:
    """A repository in which two runs worked at the same time."""

    folder: Path
    before: list[str]
    executed: list[str]
    runs: dict[int, Run]
    """By their `train.x`."""


def git(*arguments: str, folder: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def dvc(*arguments: str, folder: Path) -> str:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def standing(folder: Path) -> list[str]:
    """What a run must not move."""
    return [git(*command.split(), folder=folder) for command in ("rev-parse HEAD", "branch --all", "status --porcelain", "stash list")]


@pytest.fixture(scope="module")
def overlap(template_repository: Path, tmp_path_factory: pytest.TempPathFactory, child_environment: dict[str, str]) -> Overlap:
    folder = tmp_path_factory.mktemp("overlap") / "project"
    shutil.copytree(template_repository, folder)
    remote = folder.parent / "remote.git"
    git("init", "--quiet", "--bare", str(remote), folder=folder)
    git("remote", "add", "origin", str(remote), folder=folder)
    (folder / "behaviour.txt").write_text("validate slow\ntrain slow\n")
    with (folder / "params.yaml").open("a") as params:
        params.write("runs: {push: origin}\n")
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--all", "--message=Slow", folder=folder)
    dvc("remote", "add", "--local", "--default", "store", str(folder.parent / "store"), folder=folder)
    # What nobody committed is no run's business, and stays.
    (folder / "stand_in_stage.py").write_text("an edit that is not committed\n")
    before = standing(folder)
    log = folder.parent / "executed.txt"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps({"train.x": x})],
            cwd=folder,
            env=child_environment | {"STAND_IN_LOG": str(log)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for x in (2, 3)
    ]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    return Overlap(folder, before, log.read_text().split(), {run.settings["train.x"]: run for run in saved_runs(folder)})


def test_two_runs_at_once_complete_and_make_what_is_the_same_once(overlap: Overlap) -> None:
    assert sorted(overlap.executed) == ["evaluate", "evaluate", "preprocess", "register", "register", "train", "train", "validate"]
    for x, run in overlap.runs.items():
        assert f"train: {{x: {x}}}" in git("show", f"{run.commit}:params.yaml", folder=overlap.folder)
    assert sorted(run.done.split(", ")[0] for run in overlap.runs.values()) == ["validate ran", "validate restored"]


def test_runs_move_nothing_and_leave_nothing_but_their_refs(overlap: Overlap) -> None:
    assert standing(overlap.folder) == overlap.before
    assert not list((overlap.folder / "work" / "runs").iterdir())
    assert len(git("worktree", "list", folder=overlap.folder).splitlines()) == 1
    shown = table(saved_runs(overlap.folder))
    for run in overlap.runs.values():
        assert run.registration is not None
        assert run.registration.version == 1
        assert run.mlflow_run == "r1"
        assert run.id in shown
        assert run.base in git("log", "--format=%H", run.ref, folder=overlap.folder).split()


def test_a_run_fetched_elsewhere_has_nothing_to_do(overlap: Overlap, tmp_path: Path) -> None:
    clone, remote = tmp_path / "clone", overlap.folder.parent / "remote.git"
    git("clone", "--quiet", str(remote), str(clone), folder=tmp_path)
    ref = overlap.runs[3].ref
    git("fetch", "--quiet", "origin", f"{ref}:{ref}", folder=clone)
    git("checkout", "--quiet", ref, folder=clone)
    dvc("remote", "add", "--local", "--default", "store", str(overlap.folder.parent / "store"), folder=clone)
    dvc("pull", "--run-cache", folder=clone)
    assert "Running stage" not in dvc("repro", folder=clone)
    assert "{x: 3}" in (clone / "models" / "candidate" / "weights.txt").read_text()


def other_machine(overlap: Overlap, folder: Path) -> Path:
    """A clone with the team's remotes and a cache of its own, that has only the data."""
    store = overlap.folder.parent / "store"
    git("clone", "--quiet", str(overlap.folder), str(folder), folder=folder.parent)
    git("remote", "set-url", "origin", str(overlap.folder.parent / "remote.git"), folder=folder)
    dvc("remote", "add", "--local", "--default", "store", str(store), folder=folder)
    dvc("pull", "data.dvc", folder=folder)
    return folder


def test_a_run_on_another_machine_restores_what_was_finished_here(
    overlap: Overlap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(other_machine(overlap, tmp_path / "other"))
    monkeypatch.setattr(stages, "REGISTER", REGISTER)
    state = scheduled_pipeline(settings={"train.x": 2}, return_state=True)
    assert state.message == "validate restored, preprocess restored, train restored, evaluate restored, register ran"
    (run,) = saved_runs(tmp_path / "other")
    assert run.metrics == overlap.runs[2].metrics
    # New settings of one stage: what is before it is restored, and it runs.
    state = scheduled_pipeline(settings={"train.x": 4}, return_state=True)
    assert state.message == "validate restored, preprocess restored, train ran, evaluate ran, register ran"


@pytest.mark.slow
def test_without_the_remote_a_run_on_another_machine_does_it_again(
    overlap: Overlap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = other_machine(overlap, tmp_path / "other")
    (tmp_path / "file").touch()
    dvc("remote", "modify", "--local", "store", "url", str(tmp_path / "file" / "store"), folder=folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(stages, "REGISTER", REGISTER)
    state = scheduled_pipeline(settings={"train.x": 2}, return_state=True)
    assert state.message == "validate ran, preprocess ran, train ran, evaluate ran, register ran"
    assert git("for-each-ref", "refs/reelnest/unpushed/", folder=folder)


def test_a_run_of_what_ran_before_finds_nothing_to_do(overlap: Overlap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(overlap.folder)
    monkeypatch.setattr(stages, "REGISTER", REGISTER)
    state = scheduled_pipeline(settings={"train.x": 3}, return_state=True)
    assert state.message == ", ".join(f"{stage} unchanged" for stage in (*(task.name for task in stages.DVC_STAGES), "register"))
    newest, *others = saved_runs(overlap.folder)
    assert len(others) == 2
    assert newest.metrics == overlap.runs[3].metrics


def test_at_a_new_commit_the_stages_that_it_does_not_change_are_restored(overlap: Overlap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(overlap.folder)
    monkeypatch.setattr(stages, "REGISTER", REGISTER)
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--allow-empty", "--message", "A note", folder=overlap.folder)
    state = scheduled_pipeline(settings={"train.x": 3}, return_state=True)
    assert state.message == "validate restored, preprocess restored, train restored, evaluate restored, register unchanged"


def test_what_the_cache_and_the_remote_have_lost_is_made_again(overlap: Overlap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(overlap.folder)
    monkeypatch.setattr(stages, "REGISTER", REGISTER)
    lock = YAML(typ="safe").load(git("show", f"{overlap.runs[3].ref}:dvc.lock", folder=overlap.folder))
    (lost,) = lock["stages"]["evaluate"]["outs"]
    name = Path("files", "md5", lost["md5"][:2], lost["md5"][2:])
    (overlap.folder / ".dvc" / "cache" / name).unlink()
    state = scheduled_pipeline(settings={"train.x": 3}, return_state=True)
    assert "ran" not in str(state.message)  # the remote has it
    for store in (overlap.folder / ".dvc" / "cache", overlap.folder.parent / "store"):
        (store / name).unlink()
    state = scheduled_pipeline(settings={"train.x": 3}, return_state=True)
    assert state.message == "validate unchanged, preprocess unchanged, train unchanged, evaluate ran, register ran"
