"""The real chain on a small sample: through DVC, then through the flow, then after changes."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

import reelnest
from reelnest.records.content_hash import folder_hash
from tests.support.small_project import change, make_project, run

pytestmark = pytest.mark.slow
STAGES = ["validate", "preprocess", "train", "evaluate"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "project"
    make_project(folder)
    return folder


def told(command: list[str], folder: Path) -> dict[str, Any]:
    """The line of JSON that a command prints."""
    found: dict[str, Any] = json.loads(next(line for line in run(command, folder).splitlines() if line.startswith("{")))
    return found


def repro(folder: Path, *stages: str) -> list[str]:
    """The stages that `dvc repro` ran."""
    return stages_in(run(["dvc", "repro", *stages], folder))


def stages_in(printed: str) -> list[str]:
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]


def decoded(folder: Path, printed: str) -> tuple[int, int]:
    """How many videos validation decoded in a run, and how many preprocessing did."""
    (inspected,) = re.findall(r"inspected (\d+) videos", printed)
    return int(inspected), json.loads((folder / "work" / "preprocessing.json").read_text())["decoded"]


def test_dvc_runs_every_stage_once_and_then_finds_nothing_to_do(project: Path) -> None:
    printed = run(["dvc", "repro"], project)
    assert stages_in(printed) == STAGES
    assert repro(project) == []
    assert decoded(project, printed) == (len((project / "data" / "videos.jsonl").read_text().splitlines()), 0)
    metrics = pd.read_csv(project / "reports" / "metrics_by_dim.csv")
    assert list(metrics.columns) == ["pair_kind", "dim", "storage", "metric", "value", "low", "high"]
    assert set(metrics["dim"]) == {4, 8, 16, 32, 64, 128}
    assert set(metrics["pair_kind"]) >= {"text_to_video", "video_to_text", "all"}


def test_the_flow_after_dvc_runs_no_stage_and_registers_the_model(project: Path) -> None:
    shown = run([sys.executable, "-m", "flows.pipeline"], project)
    assert "decoded" not in shown
    registration = json.loads((project / "reports" / "registration.json").read_text())
    assert registration["version"] == 1
    behaviour = json.loads((project / "reports" / "evaluation.json").read_text())["behaviour"]
    assert behaviour["tests"] == len((project / "data" / "behaviour.jsonl").read_text().splitlines()) > 0
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    mlflow.set_registry_uri(f"sqlite:///{project}/mlflow.db")
    champion = MlflowClient().get_model_version_by_alias("reelnest", "champion")
    assert champion.run_id == json.loads((project / "models" / "candidate" / "run.json").read_text())["run_id"]
    served = mlflow.pyfunc.load_model("models:/reelnest@champion").predict(pd.DataFrame({"text": ["a red star"]}), params={"dim": 32})
    ours = reelnest.load(project / "models" / "candidate").encode_texts(["a red star"], dim=32)
    np.testing.assert_allclose(np.asarray(served), ours, atol=1e-5)


def test_the_champion_is_searched_with(project: Path) -> None:
    assert "models:/reelnest/1" in run(["reelnest", "index", "--model", "models:/reelnest@champion"], project)
    found = run(["reelnest", "search", "a red ring", "--dim", "16", "-k", "3"], project)
    assert re.findall(r"^(\d) +-?0\.\d{4}  ", found, re.MULTILINE) == ["1", "2", "3"]


def test_the_lineage_s_commands_bring_commit_and_data_back_and_the_model_is_the_version_s(project: Path) -> None:
    facts = json.loads(run(["reelnest", "lineage", "1", "--json"], project))
    assert facts["lineage"]["flow_run"] is not None
    assert facts["lineage"]["commit"]["clean"]
    assert not facts["lineage"]["stale"]
    # All but the long ones: the installation, and the stages, which have run here.
    *steps, check = [step for step in facts["rebuild"] if step not in ("make install", "source .venv/bin/activate", "dvc repro")]
    run(["bash", "-ec", "\n".join(steps)], project.parent)
    rebuilt = project.parent / "reelnest-1"
    for folder in (project, rebuilt):
        assert yaml.safe_load((folder / "data.dvc").read_text())["outs"][0]["md5"] == facts["lineage"]["data"]["hash"]
    assert (rebuilt / "params.yaml").read_text() == (project / "params.yaml").read_text()
    assert folder_hash(rebuilt / "data") == folder_hash(project / "data")
    told = run(["bash", "-ec", check], project)
    assert told.count(" same: ") == 3, told


def test_a_new_learning_rate_trains_and_evaluates_only_and_its_model_is_compared_with_what_came_before(project: Path) -> None:
    run(["git", "add", "dvc.lock"], project)
    run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "The first model"], project)
    change(project, train={"learning_rate": 0.002})
    assert repro(project) == ["train", "evaluate"]
    (champion,) = json.loads((project / "reports" / "evaluation.json").read_text())["compared_with"]
    assert (champion["what"], champion["version"]) == ("champion", 1)
    found = {one["dim"]: one["value"] for one in champion["differences"]}
    assert list(found) == [4, 8, 16, 32, 64, 128]

    # DVC says the same: the metrics' differences, and a chart of both versions by dim.
    (metrics,) = told(["dvc", "metrics", "diff", "--json"], project).values()
    assert {dim: metrics.get(f"recall@10.{dim}", {"diff": 0.0})["diff"] for dim in found} == pytest.approx(found, abs=1e-6)
    (chart,) = told(["dvc", "plots", "diff", "--json"], project)["data"]["quality_by_dim"]
    drawn = {(row["rev"], row["dim"]) for row in chart["content"]["data"]["values"]}
    assert drawn == {(version, str(dim)) for version in ("workspace", "HEAD") for dim in found}


def test_one_more_video_makes_everything_stale_and_is_the_only_one_decoded(project: Path) -> None:
    first = next(iter(sorted((project / "data" / "videos").iterdir())))
    other = project / "data" / "videos" / "another.mp4"
    other.write_bytes(first.read_bytes() + b"\0\0\0\x08free")  # an empty box at the end: other bytes, the same pictures
    with (project / "data" / "videos.jsonl").open("a") as file:
        file.write(json.dumps({"video_id": "another", "path": "videos/another.mp4"}) + "\n")
    with (project / "data" / "pairs.jsonl").open("a") as file:
        file.write(json.dumps({"query": "one more search", "target": {"video": "another"}, "split": "train"}) + "\n")
    printed = run(["dvc", "repro", "preprocess"], project)
    assert stages_in(printed) == ["validate", "preprocess"]
    assert decoded(project, printed) == (1, 0)
    assert set(told(["dvc", "status", "--json"], project)) == {"train", "evaluate"}
