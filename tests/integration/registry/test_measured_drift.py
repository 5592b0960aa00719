"""Drift measurement of new data with real git, DVC and MLflow and a tiny model: the report, its storage and the errors."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import mlflow
import numpy as np
import pytest
import yaml

from reelnest.commands import drift as stage
from reelnest.errors import RunError
from reelnest.registry.drift_log import DRIFT_TAG, ChampionRun
from reelnest.settings import Params, load_params
from reelnest.stages import measure as measuring
from reelnest.stages import register
from reelnest.stages.workspace import Workspace
from tasks.process import dvc
from tasks.workspaces import drift_run
from tasks.workspaces.drift_run import Measured
from tests.integration.registry.candidate_workspace import workspace_of

ROOT = Path(__file__).parents[3]
DVC_YAML = """
stages:
  validate:
    cmd: mkdir -p reports && touch reports/quarantine.jsonl
    deps: [data]
    outs: [reports/quarantine.jsonl]
  preprocess:
    cmd: reelnest preprocess
    deps: [data, reports/quarantine.jsonl]
    outs: [prepared]
"""


def write_data(folder: Path, videos: range, frames: int, words: str, kinds: int) -> None:
    """Short videos, a query for each, and text pairs in the numbers of `kinds`."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "videos").mkdir(parents=True)
    records, pairs = [], []
    for number in videos:
        name = f"videos/{number}.mp4"
        random = np.random.default_rng(number)
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"threads": "1", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for _ in range(frames + number % 3):
                picture = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        records.append({"video_id": f"v{number}", "path": name, "title": f"clip {number}"})
        pairs.append({"query": f"{words} number {number}", "target": f"v{number}", "split": ("train", "test")[number % 2]})
        if number % 10 < kinds:
            pairs.append({"query": f"{words} number {number}", "target": f"word {number}", "split": ("train", "test")[number % 2]})
    for name, lines in (("videos.jsonl", records), ("pairs.jsonl", pairs)):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit_data(folder: Path, message: str) -> None:
    subprocess.run([*dvc.DVC, "add", "--quiet", "data"], cwd=folder, check=True)
    git(folder, "add", "data.dvc", ".gitignore")
    git(folder, "commit", "--quiet", f"--message={message}")


@dataclass(frozen=True)
class Checkout:
    """A champion that was trained on the data of HEAD~1, in a project with other data at HEAD."""

    folder: Path
    measured: Measured


@pytest.fixture(scope="module")
def in_this_process() -> Any:
    """Runs the stage and the evaluation in this process, because new processes take seconds to import torch and MLflow."""
    in_a_process = dvc.run_stage

    def run_stage(name: str, argv: list[str], folder: Path, **how: Any) -> None:
        if name != "drift":
            return in_a_process(name, argv, folder, **how)
        number, data, *before = argv[len(drift_run.STAGE) :]
        return stage.run(Workspace(folder), load_params(folder / "params.yaml"), number, data, Path(before[1]) if before else None)

    def measure_model(workspace: Workspace, params: Params, model: Path, expected: str, out: Path) -> None:
        measuring.run(workspace, params, model, measuring.prepared_for(workspace, params, model), out, expected)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(drift_run.dvc, "run_stage", run_stage)
        patch.setattr(stage, "measure_model", measure_model)
        yield


@pytest.fixture(scope="module")
def checkout(evaluated_folder: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory, in_this_process: None) -> Checkout:
    folder = tmp_path_factory.mktemp("drift") / "checkout"
    left_out = shutil.ignore_patterns("mlruns", "mlflow.db", "registration.json", "base", "scratch")
    shutil.copytree(evaluated_folder, folder, symlinks=True, ignore=left_out)
    shutil.copy(empty_store, folder / "mlflow.db")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    # Absolute: MLflow caches a process's stores by address, and another test may have had a store of the same relative one.
    params |= {"tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}, "drift": {"sample": 25}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "src").symlink_to(ROOT / "src")  # a run uses the code of its worktree
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / ".gitignore").write_text("/data/\n/models/\n/prepared/\n/reports/\n/work/\n/mlflow.db*\n/mlruns/\n")
    git(folder, "init", "--quiet")
    subprocess.run([*dvc.DVC, "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([*dvc.DVC, "config", "core.analytics", "false"], cwd=folder, check=True)
    git(folder, "add", ".")
    write_data(folder / "data", range(30), frames=6, words="a red thing", kinds=3)
    commit_data(folder, "The first data")
    project = workspace_of(folder)
    register.run(project.workspace, project.params)
    write_data(folder / "data", range(100, 140), frames=14, words="somebody who explains at length how it is done", kinds=10)
    commit_data(folder, "Other data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "kept").mkdir()
        measured = drift_run.measure(folder, "HEAD", "a run", quality_alone=False, on_line=lambda _: None, keep=folder / "kept")
    return Checkout(folder, measured)


def measure(checkout: Checkout, revision: str = "HEAD", *, quality_alone: bool = False) -> Measured:
    return drift_run.measure(checkout.folder, revision, "again", quality_alone=quality_alone, on_line=lambda _: None)


@pytest.fixture(autouse=True)
def _in_the_checkout(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout.folder)


def test_what_changed_is_named_and_the_champion_is_measured_on_it(checkout: Checkout) -> None:
    report = checkout.measured.report
    assert report is not None
    by_name = {row["measure"]: row for row in report["measures"]}
    assert set(by_name) == {*report["distributions"], "pair kinds", "embeddings of texts", "embeddings of videos", "retrieval"}
    assert {"length of texts", "seconds of videos", "pair kinds", "embeddings of texts"} <= set(report["drifted"])
    assert (by_name["seconds of videos"]["before"], by_name["seconds of videos"]["after"]) == (25, 25)  # drift.sample
    assert (by_name["length of video texts"]["before"], by_name["length of video texts"]["after"]) == (30, 40)
    assert checkout.measured.message == report["headline"]
    assert "embeddings of texts" in drift_run.as_text(report)
    quality = report["quality"]
    assert quality["queries"]["after"] == 20 + 20 + 20 + 20  # each test pair in both directions
    assert [by_side["dim"] for by_side in quality["dims"]] == [8, 32]
    assert not quality["same_questions"]
    for by_side in quality["dims"]:
        for side in ("before", "after"):
            assert by_side[side]["low"] <= by_side[side]["value"] <= by_side[side]["high"]


def test_report_page_and_metrics_are_stored_and_the_worktree_is_removed(checkout: Checkout) -> None:
    assert json.loads((checkout.folder / "kept" / "drift.json").read_text()) == checkout.measured.report
    assert "<title>Drift: " in (checkout.folder / "kept" / "drift.html").read_text()
    report = checkout.measured.report
    assert report is not None
    place = report["mlflow"]
    files = mlflow.MlflowClient().list_artifacts(place["run_id"], place["folder"])
    assert sorted(Path(file.path).name for file in files) == ["drift.html", "drift.json"]
    run = mlflow.get_run(place["run_id"])
    assert run.data.tags[DRIFT_TAG] == report["headline"]
    assert run.data.metrics["drift/retrieval"] == next(row["effect"] for row in report["measures"] if row["measure"] == "retrieval")
    assert not list((checkout.folder / "work" / "runs").glob("*/"))
    assert git(checkout.folder, "status", "--porcelain", "--untracked-files=no") == ""


def test_the_champions_own_data_needs_no_measurement(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_run, "run_workspace", None)
    assert measure(checkout, "HEAD~1") == Measured("Nothing to do: version 1, the champion, was trained on the data of HEAD~1.")


def test_without_its_data_the_champion_can_still_be_measured_and_is_not_measured_twice(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.workspaces.cached_data import data_hash

    listing = data_hash(git(checkout.folder, "show", "HEAD~1:data.dvc"), "HEAD~1")
    cached = checkout.folder / ".dvc" / "cache" / "files" / "md5" / listing[:2] / listing[2:]
    cached.rename(checkout.folder / "work" / "aside")
    with pytest.raises(RunError, match=r"(?s)version 1, the champion, is not in DVC's cache.*`dvc push`.*reelnest drift --quality-alone"):
        measure(checkout)
    monkeypatch.setattr(stage, "measure_model", None)
    report = measure(checkout, quality_alone=True).report
    assert report is not None
    assert checkout.measured.report is not None
    assert report["quality"] == checkout.measured.report["quality"]
    assert [row["measure"] for row in report["measures"]] == ["retrieval"]
    (checkout.folder / "work" / "aside").rename(cached)


def test_a_missing_champion_or_lineage_is_reported(checkout: Checkout) -> None:
    client = mlflow.MlflowClient()
    run = mlflow.get_run(ChampionRun(load_params(checkout.folder / "params.yaml"), "1").version.run_id)
    client.create_model_version("reelnest", run.info.artifact_uri, run.info.run_id)
    client.set_registered_model_alias("reelnest", "champion", "2")
    with pytest.raises(RunError, match="registered without lineage"):
        measure(checkout)
    client.delete_registered_model_alias("reelnest", "champion")
    assert measure(checkout).message.startswith("There is no champion")
    client.set_registered_model_alias("reelnest", "champion", "1")


@pytest.mark.slow
def test_the_command_measures_in_new_processes_and_prints_the_path_of_the_page(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tasks.workspaces.drift_run"],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The page: reports/drift.html" in done.stdout
    assert (checkout.folder / "reports" / "drift.html").is_file()
