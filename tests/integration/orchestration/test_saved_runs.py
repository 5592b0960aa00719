"""What is kept of runs, with real git and DVC: a name for each, whatever Prefect calls them, and pushed where that was asked for."""

import json
import secrets
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from dvc.repo import Repo
from mlflow import MlflowClient

from reelnest.commands.overwritten_runs import overwritten_runs
from reelnest.commands.runs import Run, saved_runs
from reelnest.errors import RunError
from reelnest.launch.usage import Usage
from reelnest.registry.connection import connect
from reelnest.registry.lineage.run_tags import FLOW_RUN_TAG
from reelnest.settings import load_params, tracking_uri
from tasks.process import dvc
from tasks.workspaces.run_folders import run_id
from tasks.workspaces.run_workspace import run_workspace

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@t")
MILLISECOND = 0x01A21D40586D


def uuid7(millisecond: int = MILLISECOND) -> str:
    """As Prefect's server makes ids (RFC 9562): 48 bits of time, then 74 random ones."""
    random = secrets.randbits(80) & ~(0xF << 76) & ~(0x3 << 62)
    return str(UUID(int=millisecond << 80 | 7 << 76 | 2 << 62 | random))


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def keep(repository: Path, flow_run: str, *, push: bool = False, **settings: Any) -> Run:
    """A run whose one stage writes the flow run's id."""
    with run_workspace(
        repository, flow_run, "a-name", "HEAD", {name.replace("_", ".", 1): value for name, value in settings.items()}
    ) as own:
        (own.folder / "prepared").mkdir()
        (own.folder / "prepared" / "x").write_text(flow_run)
        # One stage's output is enough: `dvc commit` records it as if the stage had run.
        (own.folder / "dvc.yaml").write_text("stages: {p: {cmd: 'true', outs: [prepared]}}\n")
        with Repo(str(own.folder)) as repo:
            repo.commit(force=True)
        run = own.save("p ran")
        if push:
            own.push()
        return run


def test_sixty_runs_of_one_millisecond_have_sixty_ids() -> None:
    flow_runs = [uuid7() for _ in range(60)]
    assert len({flow_run[:13] for flow_run in flow_runs}) == 1
    assert len({run_id(flow_run) for flow_run in flow_runs}) == 60


def test_runs_of_one_millisecond_are_kept_beside_each_other(repository: Path) -> None:
    first, second = keep(repository, uuid7()), keep(repository, uuid7())
    assert [run.flow_run for run in saved_runs(repository)] == [second.flow_run, first.flow_run]
    for run in (first, second):
        assert json.loads(git(repository, "show", f"{run.ref}:run.json"))["flow_run"] == run.flow_run


def test_a_setting_may_have_line_breaks_of_unicode(repository: Path) -> None:
    text = "first\u2028second\x85third"
    run = keep(repository, uuid7(), train_x=text)
    keep(repository, uuid7())  # a run reads all earlier ones
    assert [saved.settings for saved in saved_runs(repository) if saved.id == run.id] == [{"train.x": text}]


def test_a_ref_that_exists_is_not_moved(repository: Path) -> None:
    flow_run = uuid7()
    first, again, third = (keep(repository, flow_run) for _ in range(3))
    assert [run.id for run in (first, again, third)] == [first.id, f"{first.id}-2", f"{first.id}-3"]
    assert git(repository, "rev-parse", first.ref) == first.commit
    assert {run.commit for run in saved_runs(repository)} == {first.commit, again.commit, third.commit}


@pytest.mark.usefixtures("prefect_server")
def test_a_run_whose_name_another_one_has_fails_and_keeps_its_results(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.scheduled import scheduled_pipeline
    from tasks.workspaces import run_workspace as workspaces

    other = keep(repository, "another-flow-run")
    monkeypatch.setattr(workspaces, "run_id", lambda _: other.id)
    state = scheduled_pipeline(register_model=False, return_state=True)
    assert state.is_failed()
    assert state.message == (f"{other.ref} belongs to another run and was not changed. This run's results are saved as {other.ref}-2.")
    assert git(repository, "rev-parse", other.ref) == other.commit
    assert "weights.txt" not in git(repository, "show", f"{other.ref}:dvc.lock")
    assert json.loads(git(repository, "show", f"{other.ref}-2:run.json"))["done"].startswith("validate ran")


@dataclass(frozen=True)
class Remotes:
    """A bare repository, as `origin`, and DVC's default remote."""

    git: Path
    dvc: Path

    @property
    def refs(self) -> set[str]:
        return {line.split("\t")[1] for line in git(self.git, "ls-remote", str(self.git)).splitlines()}

    @property
    def objects(self) -> int:
        return len(list(self.dvc.glob("files/md5/*/*")))


@pytest.fixture
def remotes(repository: Path, tmp_path: Path) -> Remotes:
    found = Remotes(tmp_path / "remote.git", tmp_path / "store")
    git(tmp_path, "init", "--quiet", "--bare", str(found.git))
    git(repository, "remote", "add", "origin", str(found.git))
    subprocess.run(["dvc", "remote", "add", "--quiet", "--default", "store", str(found.dvc)], cwd=repository, check=True)
    with (repository / "params.yaml").open("a") as params:
        params.write("runs: {push: null, push_outputs: null}\n")
    git(repository, "commit", "--quiet", "--all", "--message=Remotes")
    return found


def test_without_the_setting_nothing_is_pushed(repository: Path, remotes: Remotes) -> None:
    keep(repository, "r1", push=True)
    assert remotes.refs == set()
    assert remotes.objects == 0


def test_with_the_setting_the_outputs_and_the_ref_are_pushed(repository: Path, remotes: Remotes, tmp_path: Path) -> None:
    run = keep(repository, "r1", push=True, runs_push="origin")
    assert remotes.refs == {run.ref}
    assert_has_nothing_to_do(run, remotes, tmp_path / "clone")


@pytest.mark.slow
def test_after_a_night_without_network_the_next_run_pushes_both(repository: Path, remotes: Remotes, tmp_path: Path) -> None:
    away = remotes.git.rename(tmp_path / "away.git")
    with pytest.raises(RunError, match=r"git push --quiet origin"):
        keep(repository, "r1", push=True, runs_push="origin")
    remotes.dvc.rename(tmp_path / "store-away")
    remotes.dvc.touch()  # DVC would make the folder
    with pytest.raises(dvc.CommandError, match="push"):
        keep(repository, "r2", push=True, runs_push="origin")
    remotes.dvc.unlink()  # all that r1 had pushed there is gone as well
    away.rename(remotes.git)
    keep(repository, "r3", push=True, runs_push="origin")
    runs = saved_runs(repository)
    assert remotes.refs == {run.ref for run in runs}
    for run in runs:
        assert_has_nothing_to_do(run, remotes, tmp_path / f"clone-{run.flow_run}")
    shutil.rmtree(remotes.git)
    git(tmp_path, "init", "--quiet", "--bare", str(remotes.git))
    last = keep(repository, "r4", push=True, runs_push="origin")
    assert remotes.refs == {last.ref}  # what was pushed once is not pushed again: somebody may have removed it there


def test_a_ref_that_the_remote_refuses_keeps_no_other_from_being_pushed(repository: Path, remotes: Remotes) -> None:
    other = git(repository, "commit-tree", "HEAD^{tree}", "-m", "another history")
    git(repository, "push", "--quiet", "origin", f"{other}:refs/reelnest/runs/{run_id('r1')}")
    for _ in range(2):
        with pytest.raises(RunError, match=r"non-fast-forward|rejected"):
            keep(repository, "r1", push=True, runs_push="origin")
    run = saved_runs(repository)[0]
    assert run.ref in remotes.refs


def test_a_remote_that_does_not_exist_is_refused_before_the_run(repository: Path, remotes: Remotes) -> None:
    with pytest.raises(RunError, match=r"runs\.push: there is no git remote 'origni'; known: origin"):
        keep(repository, "r1", runs_push="origni")
    with pytest.raises(RunError, match=r"runs\.push_outputs: there is no DVC remote 'shop'; known: store"):
        keep(repository, "r1", runs_push="origin", runs_push_outputs="shop")
    with pytest.raises(RunError, match=r"push_outputs needs push"):
        keep(repository, "r1", runs_push_outputs="store")


def assert_has_nothing_to_do(run: Run, remotes: Remotes, clone: Path) -> None:
    git(clone.parent, "clone", "--quiet", str(remotes.git), str(clone))
    git(clone, "fetch", "--quiet", "origin", f"{run.ref}:{run.ref}")
    git(clone, "switch", "--quiet", "--detach", run.ref)
    subprocess.run(["dvc", "pull", "--quiet", "--run-cache", "--remote", "store"], cwd=clone, check=True)
    done = subprocess.run(["dvc", "repro"], cwd=clone, check=True, capture_output=True, text=True)
    assert "Running stage" not in done.stdout
    assert (clone / "prepared" / "x").read_text() == run.flow_run


def test_runs_that_an_earlier_version_overwrote_are_named(repository: Path, empty_store: Path) -> None:
    (repository / "configs").mkdir()
    shutil.copytree(Path(__file__).parents[3] / "configs" / "accelerate", repository / "configs" / "accelerate")
    (repository / "params.yaml").write_text("{}\n")
    flow_runs = [uuid7() for _ in range(3)]
    name = flow_runs[0].replace("-", "")[:12]
    commits = []
    for flow_run in flow_runs:
        record = keep(repository, flow_run)
        commits.append(as_version_0_1(repository, record, name))
    (last,) = saved_runs(repository)
    assert last.commit == commits[-1]
    shutil.copy(empty_store, repository / "mlflow.db")
    params = load_params()
    MlflowClient(tracking_uri(params)).create_run(connect(params), tags={FLOW_RUN_TAG: flow_runs[1]})
    found = overwritten_runs(repository, [last])
    assert {one.ref for one in found} == {f"refs/reelnest/runs/{name}"}
    text = "\n".join(one.text for one in found)
    assert f"of the flow run {flow_runs[1]}, has no ref" in text
    assert commits[-1] not in text
    for number in (0, 1):
        (command,) = [one.text.partition("commit: ")[2] for one in found if commits[number] in one.text]
        subprocess.run(command.split(), cwd=repository, check=True)
    assert {run.commit for run in saved_runs(repository)} == set(commits)


def test_what_a_run_used_is_in_its_record_and_in_the_mlflow_run_of_its_model(
    repository: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    (repository / "configs").mkdir()
    shutil.copytree(Path(__file__).parents[3] / "configs" / "accelerate", repository / "configs" / "accelerate")
    database = f"sqlite:///{repository / 'mlflow.db'}"  # MLflow keeps the store of a relative one open
    (repository / "params.yaml").write_text(json.dumps({"tracking": {"uri": database}}))
    git(repository, "add", "configs", "params.yaml")
    git(repository, "commit", "-qm", "settings")
    shutil.copy(empty_store, repository / "mlflow.db")
    params = load_params()
    client = MlflowClient(tracking_uri(params))
    run_id = client.create_run(connect(params)).info.run_id
    with run_workspace(repository, uuid7(), "a-name", "HEAD", {}) as own:
        for used in (Usage("train", 60.0, 3600.0, 8.0, 20.0), Usage("evaluate", 5.0, 360.0, 0.8, None)):
            used.append(own.folder)
        run = replace(own.save("p ran"), mlflow_run=run_id)
        own.log_usage(run)
    assert saved_runs(repository)[0].usage == run.usage
    assert [used.stage for used in run.usage] == ["train", "evaluate"]
    metrics = client.get_run(run_id).data.metrics
    assert (metrics["usage/train/queued_seconds"], metrics["usage/train/gpu_hours"], metrics["usage/train/cost"]) == (60.0, 8.0, 20.0)
    assert metrics["usage/total/gpu_hours"] == 8.8
    assert "usage/total/cost" not in metrics  # the price of some GPU hours is not known


def as_version_0_1(repository: Path, run: Run, name: str) -> str:
    """Writes a run as that version did: under the name that it shares with others, over what is there, without the flow run's id."""
    record = json.loads(git(repository, "show", f"{run.ref}:run.json"))
    del record["flow_run"]
    text = json.dumps({**record, "id": name})
    done = subprocess.run(["git", "hash-object", "-w", "--stdin"], cwd=repository, check=True, capture_output=True, text=True, input=text)
    listing = git(repository, "ls-tree", run.ref).splitlines()
    lines = [f"100644 blob {done.stdout.strip()}\trun.json" if line.endswith("\trun.json") else line for line in listing]
    made = subprocess.run(["git", "mktree"], cwd=repository, check=True, capture_output=True, text=True, input="\n".join(lines) + "\n")
    commit = git(repository, "commit-tree", "-p", "HEAD", "-m", "Run", made.stdout.strip())
    git(repository, "update-ref", f"refs/reelnest/runs/{name}", commit)
    git(repository, "update-ref", "-d", run.ref)
    git(repository, "update-ref", "-d", run.ref.replace("/runs/", "/unpushed/"))
    return commit
