"""Versions, aliases, and interrupted registrations."""

import functools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.file_utils import local_file_uri_to_path

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.errors import RegistryError
from reelnest.evaluation.by_query import CODE
from reelnest.registry.candidate import Candidate
from reelnest.registry.connection import connect
from reelnest.registry.known_versions import MODEL_HASH_TAG
from reelnest.registry.promotion import deciding
from reelnest.registry.promotion.aliases import rollback
from reelnest.registry.promotion.decision import Evidence
from reelnest.registry.promotion.verdict import Approval
from reelnest.registry.versions import versions
from reelnest.registry.versions.logged_model import log_model
from reelnest.registry.versions.measuring import CannotMeasureError
from reelnest.registry.versions.versions import Registration, Submission, register_candidate
from reelnest.settings import Params
from reelnest.stages import register
from reelnest.stages.measure import measure
from tests.integration.registry.candidate_workspace import Project


def another_model(folder: Path, number: int) -> Candidate:
    """The same weights in a folder with other content, which is another model to the registry."""
    (folder / "note.txt").write_text(f"model {number}")
    return Candidate.of(folder)


def recall(value: float) -> dict[str, float]:
    return {"recall@10": value, "mrr": 0.5}


def aliases(name: str = "reelnest") -> dict[str, str]:
    return {alias: str(version) for alias, version in mlflow.MlflowClient().get_registered_model(name).aliases.items()}


def version_numbers() -> list[str]:
    return sorted(str(version.version) for version in mlflow.MlflowClient().search_model_versions("name = 'reelnest'"))


def test_the_first_model_is_challenger_and_champion_with_its_metrics(registered: Project) -> None:
    report = json.loads((registered.reports / "registration.json").read_text())
    evaluation = json.loads((registered.reports / "evaluation.json").read_text())
    assert (report["version"], report["aliases"], report["decision"]) == (1, ["challenger", "champion"], "promoted")
    mlflow.set_registry_uri(registered.params.tracking.uri)
    tags = mlflow.MlflowClient().get_model_version("reelnest", "1").tags
    full = next(result for result in evaluation["results"] if result["pair_kind"] == "all" and result["dim"] == evaluation["width"])
    assert float(tags["recall_at_10"]) == full["metrics"]["recall@10"] == report["value"]
    assert tags["reelnest.evaluation_data_hash"] == evaluation["data"]["hash"]
    assert tags[MODEL_HASH_TAG] == evaluation["model"]["hash"] == report["model_hash"]


def test_the_model_is_not_copied_to_the_folder_for_temporary_files(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is often small or in memory."""
    experiment = connect(project.params)
    run_id = mlflow.MlflowClient().create_run(experiment).info.run_id
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    assert log_model(project.params, Candidate.of(project.workspace.candidate), run_id, None)
    assert not list(project.workspace.candidate.parent.glob(".reelnest-*"))


def test_the_model_hash_does_not_include_the_run_file(project: Project) -> None:
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


def test_concurrent_registrations_of_a_model_create_one_version(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    look = versions._version_of
    looks = 0

    def register_while_the_other_logs(name: str, candidate: Candidate) -> ModelVersion | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            version = look(name, candidate)
            register.run(project.workspace, project.params)
            return version
        return look(name, candidate)

    monkeypatch.setattr(versions, "_version_of", register_while_the_other_logs)
    monkeypatch.setattr(versions, "logged_model", lambda *_: None)  # each call logs a new model
    register.run(project.workspace, project.params)
    assert version_numbers() == ["1"]
    report = json.loads((project.reports / "registration.json").read_text())
    assert (report["version"], report["aliases"], report["decision"]) == (1, ["challenger", "champion"], "promoted")
    client = mlflow.MlflowClient()
    (version,) = client.search_model_versions("name = 'reelnest'")
    experiment = client.get_experiment_by_name(project.params.tracking.experiment)
    assert experiment is not None
    logged = client.search_logged_models([experiment.experiment_id], f"tags.`{MODEL_HASH_TAG}` = '{report['model_hash']}'")
    assert [f"models:/{model.model_id}" for model in logged] == [version.source]


def queries_file(reports: Path, value: float, code: str = "code") -> Path:
    """Metrics of 200 queries around `value` at two dims. The queries are equally hard for each model."""
    hardness = np.random.default_rng(0).uniform(-0.2, 0.2, size=200)
    tables = [
        pd.DataFrame({"pair_kind": "text_to_video", "query": [f"q{n}" for n in range(200)], "dim": dim, "recall@10": value + hardness})
        for dim in (8, 32)
    ]
    table = pd.concat(tables)
    table.attrs[CODE] = code
    table.to_parquet(reports / "queries.parquet")
    return reports / "queries.parquet"


def unneeded(version: ModelVersion, folder: Path) -> None:
    raise AssertionError(f"version {version.version} was measured again")


def registered_as(
    project: Project,
    candidate: Candidate,
    value: float,
    data: str = "data",
    code: str = "code",
    *,
    validation_passed: bool | None = True,
    measure: Callable[[ModelVersion, Path], None] = unneeded,
    approval: Approval | None = None,
    params: Params | None = None,
) -> Registration:
    """Registers a model with metrics around `value`."""
    queries = queries_file(project.reports, value, code)
    evidence = Evidence(queries, data, code, validation_passed, None)
    return register_candidate(params or project.params, Submission(candidate, recall(value), evidence, {}), measure, approval)


def test_a_model_becomes_champion_only_if_it_is_better_on_the_same_data(project: Project) -> None:
    folder = project.workspace.candidate

    def registered_with(number: int, value: float, data: str) -> Registration:
        candidate = another_model(folder, number)
        return registered_as(project, candidate, value, data)

    first = registered_with(1, 0.5, "data")
    assert (first.decision, first.is_new) == ("promoted", True)
    worse = registered_with(2, 0.4, "data")
    assert (worse.decision, worse.aliases) == ("not promoted", ("challenger",))
    assert "against the champion (version 1): may be worse than the champion by more than 0.01 at dim 8, 32" in worse.reason
    equal = registered_with(3, 0.5, "data")
    assert (equal.decision, "not significantly better at any dim" in equal.reason) == ("not promoted", True)
    better = registered_with(5, 0.6, "data")
    assert (better.decision, better.aliases) == ("promoted", ("challenger", "champion"))
    verdict = "against the champion (version 1): not worse than the champion by more than 0.01 at any dim, better at dim 8, 32"
    assert better.reason == verdict
    first_line, _, *conditions, empty, head, _, at_8, _ = str(
        mlflow.MlflowClient().get_model_version("reelnest", str(better.version)).description
    ).splitlines()
    assert first_line == f"**promoted**: {verdict}"
    assert [line.split(":")[0] for line in conditions] == [f"- {condition.name}" for condition in better.conditions]
    assert (empty, head) == ("", "| dim | recall@10 minus the champion's | interval |")
    assert at_8.startswith("| 8 | +0.1000 | ")
    assert [(difference.dim, round(difference.value, 6)) for difference in better.differences] == [(8, 0.1), (32, 0.1)]
    assert registered_with(5, 0.6, "data").differences == better.differences
    assert aliases() == {"champion": "4", "challenger": "4"}

    again = registered_with(1, 0.5, "data")
    assert (again.version, again.is_new) == (1, False)
    assert aliases() == {"champion": "4", "challenger": "4"}


def test_a_champion_without_metrics_is_measured_again_once(project: Project) -> None:
    registered_as(project, another_model(project.workspace.candidate, 1), 0.5)
    champion = mlflow.MlflowClient().get_model_version("reelnest", "1")
    gate = Path(local_file_uri_to_path(mlflow.get_run(champion.run_id).info.artifact_uri), "gate")
    measured: list[str] = []

    def challenged_by(number: int, data: str, code: str) -> Registration:
        def measure(version: ModelVersion, folder: Path) -> None:
            measured.append(str(version.version))
            queries_file(folder, 0.8, code)

        return registered_as(project, another_model(project.workspace.candidate, number), 0.7, data, code, measure=measure)

    # With its registered metrics, each challenger would be better.
    other_data = challenged_by(2, "other data", "code")
    assert (other_data.decision, measured) == ("not promoted", ["1"])
    assert [round(difference.value, 6) for difference in other_data.differences] == [-0.1, -0.1]
    assert other_data.conditions[0].why == "the champion was measured again on this data"
    assert (challenged_by(3, "other data", "code").decision, measured) == ("not promoted", ["1"])
    other_code = challenged_by(4, "data", "other code")
    assert (other_code.decision, measured) == ("not promoted", ["1", "1"])
    assert other_code.conditions[1].why == "the champion was measured again by this code"
    for file in gate.rglob("queries.parquet"):
        file.write_bytes(file.read_bytes()[:100])  # an interrupted upload
    assert (challenged_by(5, "data", "other code").decision, measured) == ("not promoted", ["1", "1", "1"])


def test_the_repeated_evaluation_of_the_champion_equals_its_evaluation(project: Project, tmp_path: Path) -> None:
    register.run(project.workspace, project.params)
    champion = mlflow.MlflowClient().get_model_version("reelnest", "1")
    shutil.rmtree(project.workspace.candidate)  # its files come from the registry
    evaluation = EvaluationReport.read(project.reports)
    measure(project.workspace, project.params, evaluation, champion, tmp_path)
    after, before = (pd.read_parquet(folder / "queries.parquet") for folder in (tmp_path, project.reports))
    pd.testing.assert_frame_equal(after, before)
    assert after.attrs == before.attrs
    by_other_code = evaluation.model_copy(update={"code": evaluation.code.model_copy(update={"hash": "other"})})
    with pytest.raises(RegistryError, match=r"another version of the code.*Run `reelnest evaluate`"):
        measure(project.workspace, project.params, by_other_code, champion, tmp_path)


def test_a_champion_that_cannot_be_evaluated_is_left_to_a_person(project: Project) -> None:
    register.run(project.workspace, project.params)

    def failing(version: ModelVersion, folder: Path) -> None:
        raise CannotMeasureError("its evaluation failed: out of memory")

    failed = registered_as(project, another_model(project.workspace.candidate, 3), 0.9, measure=failing)
    assert (failed.decision, "out of memory" in failed.reason) == ("not promoted", True)
    model_id = mlflow.MlflowClient().get_model_version("reelnest", "1").source.removeprefix("models:/")
    shutil.rmtree(local_file_uri_to_path(mlflow.get_logged_model(model_id).artifact_location))
    evaluation = EvaluationReport.read(project.reports)
    result = registered_as(
        project,
        another_model(project.workspace.candidate, 2),
        0.9,
        measure=functools.partial(measure, project.workspace, project.params, evaluation),
    )
    assert result.decision == "not promoted"
    assert "its files are missing from MLflow's storage: a person must decide whether this model replaces it" in result.reason
    assert aliases() == {"champion": "1", "challenger": "3"}


def test_a_model_with_new_evidence_is_decided_again_except_after_a_rollback(project: Project) -> None:
    model_1, model_2 = (another_model(project.workspace.candidate, number) for number in (1, 2))
    first = registered_as(project, model_1, 0.5)
    failed = registered_as(project, model_2, 0.9, validation_passed=False)
    assert (failed.decision, "the data did not pass validation" in failed.reason) == ("not promoted", True)
    passed = registered_as(project, model_2, 0.9)
    assert (passed.version, passed.decision, passed.is_new) == (failed.version, "promoted", True)
    assert rollback(project.params) == (passed.version, first.version)
    again = registered_as(project, model_2, 0.9, validation_passed=None)
    assert (again.is_new, again.reason.split(",")[0]) == (False, "taken back by hand")


def test_a_model_waits_for_approval_and_is_then_compared_again(project: Project) -> None:
    with_approval = project.params.model_copy(
        update={"registration": project.params.registration.model_copy(update={"approval": "prefect"})}
    )
    model_1, model_2, model_3 = (another_model(project.workspace.candidate, number) for number in (1, 2, 3))
    registered_as(project, model_1, 0.5)
    waiting = registered_as(project, model_2, 0.6, params=with_approval)
    assert (waiting.decision, waiting.aliases) == ("waits for approval", ("challenger",))
    assert registered_as(project, model_2, 0.6, params=with_approval).is_new is False
    assert registered_as(project, model_3, 0.8).decision == "promoted", "meanwhile"
    late = registered_as(project, model_2, 0.6, params=with_approval, approval=Approval(True, "Anna"))
    assert (late.decision, "against the champion (version 3)" in late.reason) == ("not promoted", True)
    four = another_model(project.workspace.candidate, 4)
    assert registered_as(project, four, 0.9, params=with_approval).decision == "waits for approval"
    refused = registered_as(project, four, 0.9, params=with_approval, approval=Approval(False, "Anna: too slow"))
    assert (refused.decision, "not approved: Anna: too slow" in refused.reason) == ("not promoted", True)
    assert registered_as(project, four, 0.9, params=with_approval, approval=Approval(True, "Bo")).decision == "not promoted", (
        "it is decided"
    )


@pytest.mark.parametrize("stopped_at", ["create_model_version", "set_registered_model_alias", "set_model_version_tag"])
def test_an_interrupted_registration_is_finished_by_the_next(project: Project, monkeypatch: pytest.MonkeyPatch, stopped_at: str) -> None:
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


KILLED_WHILE_DECIDING = """
import os, signal, sys
from pathlib import Path
import mlflow
from reelnest.settings import load_params
from reelnest.stages import register
from reelnest.stages.workspace import Workspace
mlflow.MlflowClient.update_model_version = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
workspace = Workspace(Path(sys.argv[1]))
os.environ["MLFLOW_TRACKING_URI"] = sys.argv[2]
register.run(workspace, load_params(workspace.params))
"""


def test_a_process_killed_while_deciding_leaves_the_decision_to_the_next(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_DECIDING, str(project.workspace.root), project.params.tracking.uri]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    monkeypatch.setattr(deciding, "ABANDONED_AFTER", 0.5)
    register.run(project.workspace, project.params)
    assert version_numbers() == ["1"]
    assert aliases() == {"champion": "1", "challenger": "1"}
    assert mlflow.MlflowClient().get_registered_model("reelnest").tags == {}
    assert json.loads((project.reports / "registration.json").read_text())["decision"] == "promoted"


def test_an_incompletely_uploaded_model_is_not_registered(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
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
