"""Versions, aliases, and what happens when registration stops half-way."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Project
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

from reelnest.errors import RegistryError
from reelnest.registry import versions
from reelnest.registry.candidate import MODEL_HASH_TAG, Candidate
from reelnest.registry.versions import Registration, pinned_requirements, register_candidate
from reelnest.stages import register


def another_model(folder: Path, number: int) -> Candidate:
    """The same weights in a folder of another content: another model to the registry."""
    (folder / "note.txt").write_text(f"model {number}")
    return Candidate.of(folder)


def recall(value: float) -> dict[str, float]:
    return {"recall@10": value, "mrr": 0.5}


def aliases(name: str = "reelnest") -> dict[str, str]:
    return {alias: str(version) for alias, version in mlflow.MlflowClient().get_registered_model(name).aliases.items()}


def version_numbers() -> list[str]:
    return sorted(str(found.version) for found in mlflow.MlflowClient().search_model_versions("name = 'reelnest'"))


def test_the_first_model_is_challenger_and_champion_with_its_figures(registered: Project) -> None:
    report = json.loads((registered.reports / "registration.json").read_text())
    evaluation = json.loads((registered.reports / "evaluation.json").read_text())
    assert (report["version"], report["aliases"], report["decision"]) == (1, ["challenger", "champion"], "promoted")
    mlflow.set_registry_uri(registered.params.tracking.uri)
    tags = mlflow.MlflowClient().get_model_version("reelnest", "1").tags
    full = next(result for result in evaluation["results"] if result["pair_kind"] == "all" and result["dim"] == evaluation["width"])
    assert float(tags["recall_at_10"]) == full["metrics"]["recall@10"] == report["value"]
    assert tags["reelnest.evaluation_data_hash"] == evaluation["data"]["hash"]
    assert tags[MODEL_HASH_TAG] == evaluation["model"]["hash"] == report["model_hash"]


def test_the_run_file_is_no_part_of_what_the_model_is(project: Project) -> None:
    before = Candidate.of(project.workspace.candidate)
    (project.workspace.candidate / "run.json").write_text(json.dumps({"run_id": "elsewhere"}))
    after = Candidate.of(project.workspace.candidate)
    assert (before.hash, after.run_id) == (after.hash, "elsewhere")


def test_a_second_registration_of_the_same_model_changes_nothing(project: Project) -> None:
    register.run(project.workspace, project.params)
    written = (project.reports / "registration.json").read_text()
    register.run(project.workspace, project.params)
    assert version_numbers() == ["1"]
    assert (project.reports / "registration.json").read_text() == written


def queries_file(reports: Path, value: float) -> Path:
    """Figures of 200 queries around `value`, at two dims: hard ones and easy ones, the same for each model."""
    hardness = np.random.default_rng(0).uniform(-0.2, 0.2, size=200)
    tables = [
        pd.DataFrame({"pair_kind": "text_to_video", "query": [f"q{n}" for n in range(200)], "dim": dim, "recall@10": value + hardness})
        for dim in (8, 32)
    ]
    pd.concat(tables).to_parquet(reports / "queries.parquet")
    return reports / "queries.parquet"


def test_a_model_becomes_champion_only_where_it_is_better_on_the_same_data(project: Project) -> None:
    folder, params = project.workspace.candidate, project.params

    def registered_with(number: int, value: float, data: str) -> Registration:
        candidate = another_model(folder, number)
        return register_candidate(params, candidate, recall(value), queries_file(project.reports, value), data, {})

    first = registered_with(1, 0.5, "data")
    assert (first.decision, first.is_new) == ("promoted", True)
    worse = registered_with(2, 0.4, "data")
    assert (worse.decision, worse.aliases) == ("not promoted", ("challenger",))
    assert "against the champion (version 1): not shown to be as good at dim 8, 32" in worse.reason
    equal = registered_with(3, 0.5, "data")
    assert (equal.decision, "nowhere shown to be better" in equal.reason) == ("not promoted", True)
    other_data = registered_with(4, 0.9, "other data")
    assert other_data.decision == "not promoted"
    assert "other test data" in other_data.reason
    better = registered_with(5, 0.6, "data")
    assert (better.decision, better.aliases) == ("promoted", ("challenger", "champion"))
    assert "better at dim 8, 32, nowhere worse by 0.01. recall@10 minus the champion's by dim, 200 queries: 8: +0.1000" in better.reason
    assert [(one.dim, round(one.value, 6)) for one in better.differences] == [(8, 0.1), (32, 0.1)]
    assert registered_with(5, 0.6, "data").differences == better.differences
    assert aliases() == {"champion": "5", "challenger": "5"}

    again = registered_with(1, 0.5, "data")
    assert (again.version, again.is_new) == (1, False)
    assert aliases() == {"champion": "5", "challenger": "5"}


def test_a_champion_whose_figures_are_gone_is_not_beaten_by_guess(project: Project) -> None:
    register.run(project.workspace, project.params)
    champion = mlflow.MlflowClient().get_model_version("reelnest", "1")
    shutil.rmtree(Path(local_file_uri_to_path(mlflow.get_run(champion.run_id).info.artifact_uri), "gate"))
    data_hash = champion.tags["reelnest.evaluation_data_hash"]
    found = register_candidate(
        project.params, another_model(project.workspace.candidate, 2), recall(0.9), queries_file(project.reports, 0.9), data_hash, {}
    )
    assert found.decision == "not promoted"
    assert "does not hold its figures by query" in found.reason


@pytest.mark.parametrize("stopped_at", ["create_model_version", "set_registered_model_alias", "set_model_version_tag"])
def test_a_registration_that_stops_half_way_is_finished_by_the_next(
    project: Project, monkeypatch: pytest.MonkeyPatch, stopped_at: str
) -> None:
    class StopError(Exception):
        pass

    def stop(*args: Any, **kwargs: Any) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, stopped_at, stop)
        with pytest.raises(StopError):
            register.run(project.workspace, project.params)
    assert not (project.reports / "registration.json").exists()
    register.run(project.workspace, project.params)
    assert version_numbers() == ["1"]
    assert aliases() == {"champion": "1", "challenger": "1"}
    experiment = mlflow.get_experiment_by_name("reelnest").experiment_id
    assert len(mlflow.search_logged_models([experiment], output_format="list")) == 1
    assert json.loads((project.reports / "registration.json").read_text())["decision"] == "promoted"


def test_a_model_whose_files_did_not_all_arrive_is_not_registered(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_model_artifacts", killed)
        with pytest.raises(Killed):
            register.run(project.workspace, project.params)
    register.run(project.workspace, project.params)
    (version,) = mlflow.MlflowClient().search_model_versions("name = 'reelnest'")
    assert Path(mlflow.artifacts.download_artifacts(version.source), "artifacts", "candidate", "model.safetensors").is_file()


def test_what_mlflow_refuses_is_told_with_what_to_do(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise MlflowException("the disk is full")

    monkeypatch.setattr(versions, "_log_model", refuse)
    with pytest.raises(RegistryError, match=r"the disk is full.*Run `reelnest register` again"):
        register.run(project.workspace, project.params)


def test_a_model_that_was_not_the_one_evaluated_is_refused(project: Project) -> None:
    another_model(project.workspace.candidate, 9)
    with pytest.raises(RegistryError, match=r"measures another model .* Run `reelnest evaluate`"):
        register.run(project.workspace, project.params)


@pytest.mark.parametrize(("content", "says"), [(None, "no such file"), ("{}", "not an evaluation"), ("{", "not an evaluation")])
def test_a_missing_or_broken_evaluation_is_refused(project: Project, content: str | None, says: str) -> None:
    file = project.reports / "evaluation.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(RegistryError, match=says):
        register.run(project.workspace, project.params)


def test_a_missing_candidate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="Run `reelnest train` first"):
        Candidate.of(tmp_path / "nothing")


def test_requirements_are_versions_that_pip_can_find() -> None:
    requirements = dict(line.split("==") for line in pinned_requirements())
    assert {"torch", "transformers", "mlflow", "decord2"} <= set(requirements)
    assert not any("+" in version for version in requirements.values())


def test_outside_of_git_there_is_no_commit(tmp_path: Path) -> None:
    assert register.git_commit(tmp_path) is None
