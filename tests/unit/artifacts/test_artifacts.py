"""The reports of the stages as files: they are written and read unchanged, and an invalid file gives an error with the command to run."""

import json
from pathlib import Path

import pytest

from reelnest.artifacts.artifact import Artifact
from reelnest.artifacts.candidate_run import CandidateRun
from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.artifacts.preprocessing_report import PreprocessingReport
from reelnest.artifacts.registration_report import RegistrationReport
from reelnest.artifacts.training_report import TrainingReport
from reelnest.artifacts.validation_report import ValidationReport
from reelnest.errors import ArtifactError
from tests.support import reports

ARTIFACTS: dict[type[Artifact], reports.Content] = {
    ValidationReport: reports.validation(),
    PreprocessingReport: reports.preprocessing(),
    TrainingReport: reports.training(),
    EvaluationReport: reports.evaluation(),
    RegistrationReport: reports.registration(lineage=reports.origins()),
}


@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda artifact: artifact.FILE)
def test_a_file_is_read_and_written_again_to_the_same_bytes(artifact: type[Artifact], tmp_path: Path) -> None:
    text = json.dumps(ARTIFACTS[artifact], indent=2, sort_keys=True) + "\n"
    (tmp_path / artifact.FILE).write_text(text)
    read = artifact.read(tmp_path)
    assert read.write(tmp_path).read_text() == text
    assert artifact.read(tmp_path) == read


@pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda artifact: artifact.FILE)
@pytest.mark.parametrize(
    ("version", "problem"), [(99, "schema_version is 99"), ("1", "schema_version is 1"), (None, "schema_version is missing")]
)
def test_another_version_is_refused_by_its_name_with_the_command_to_run(
    artifact: type[Artifact], version: object, problem: str, tmp_path: Path
) -> None:
    content = {key: value for key, value in ARTIFACTS[artifact].items() if key != "schema_version"}
    (tmp_path / artifact.FILE).write_text(json.dumps(content | ({} if version is None else {"schema_version": version})))
    with pytest.raises(ArtifactError) as caught:
        artifact.read_if_there(tmp_path)
    stage = artifact.FILE.removesuffix(".json")
    command = {"validation": "validate", "preprocessing": "preprocess", "training": "train", "evaluation": "evaluate"}.get(
        stage, "register"
    )
    assert str(caught.value).startswith(f"{tmp_path / artifact.FILE}: {problem}.")
    assert f"schema_version {artifact.VERSION}. Run `reelnest {command}` again." in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "schema_version is missing"),
        (json.dumps(reports.evaluation(width="wide")), ": width: Input should be a valid integer"),
        (json.dumps(reports.evaluation(results=[reports.result(metrics=None)])), ": results.0.metrics: Input should be"),
        (json.dumps(reports.evaluation(extra=1)), ": extra: Extra inputs are not permitted"),
    ],
)
def test_an_invalid_file_is_refused_with_its_first_problem(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(ArtifactError) as caught:
        EvaluationReport.read(tmp_path)
    assert problem in str(caught.value)
    assert "Run `reelnest evaluate` again" in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "validation.json").write_bytes(b"\xff")
    with pytest.raises(ArtifactError, match="not UTF-8"):
        ValidationReport.read(tmp_path)


def test_a_missing_file_is_none_or_an_error_with_the_command_to_run(tmp_path: Path) -> None:
    assert TrainingReport.read_if_there(tmp_path) is None
    with pytest.raises(ArtifactError, match=r"training\.json: no such file\. Run `reelnest train` first\."):
        TrainingReport.read(tmp_path)


def test_the_metrics_of_the_chosen_weights_are_those_of_the_best_step_at_its_dim() -> None:
    earlier = {"epoch": 2, "step": 3, "metrics": {"16": {"ndcg@10": 0.4}}}
    content = reports.training(validation=[earlier, *reports.training()["validation"]])
    assert TrainingReport.from_content(content, Path("x")).best_metrics == {"ndcg@10": 0.5, "recall@10": 0.75}
    assert TrainingReport.from_content(reports.training(validation=[]), Path("x")).best_metrics == {}


def test_the_run_of_a_model_without_a_run_file_is_none(tmp_path: Path) -> None:
    assert CandidateRun.read(tmp_path) == CandidateRun()
    CandidateRun(run_id="r1").write(tmp_path)
    assert CandidateRun.read(tmp_path).run_id == "r1"
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ArtifactError, match="expected a JSON object with a run_id"):
        CandidateRun.read(tmp_path)
