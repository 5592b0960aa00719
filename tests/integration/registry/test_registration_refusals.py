"""What a registration refuses, and what it requires."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from reelnest.errors import ArtifactError, RegistryError
from reelnest.registry.candidate import Candidate
from reelnest.registry.promotion.verdict import Approval
from reelnest.registry.versions import versions
from reelnest.registry.versions.logged_model import pinned_requirements
from reelnest.stages import register
from tests.integration.registry.candidate_workspace import Project


def test_an_error_of_mlflow_is_reported_with_advice(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise MlflowException("the disk is full")

    monkeypatch.setattr(versions, "log_model", refuse)
    with pytest.raises(RegistryError, match=r"the disk is full.*Run `reelnest register` again"):
        register.run(project.workspace, project.params)


def test_a_model_other_than_the_evaluated_one_is_refused(project: Project) -> None:
    (project.workspace.candidate / "note.txt").write_text("another model")
    with pytest.raises(RegistryError, match=r"is of another model .* Run `reelnest evaluate`"):
        register.run(project.workspace, project.params)


@pytest.mark.parametrize(("content", "expected"), [(None, "no such file"), ("{}", "schema_version is missing"), ("{", "not JSON")])
def test_a_missing_or_invalid_evaluation_is_refused(project: Project, content: str | None, expected: str) -> None:
    file = project.reports / "evaluation.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(ArtifactError, match=f"{expected}.*reelnest evaluate"):
        register.run(project.workspace, project.params)


def test_a_person_cannot_refuse_a_model_that_was_promoted_before(project: Project) -> None:
    register.run(project.workspace, project.params)
    register.run(project.workspace, project.params, Approval(True, "Ada"))
    with pytest.raises(RegistryError, match=r"version 1 does not wait for approval: its decision is 'promoted'\..*`reelnest rollback`"):
        register.run(project.workspace, project.params, Approval(False, "Ada: too slow"))


def test_a_model_that_waits_says_how_to_approve_it_so_that_the_approval_is_recorded(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    registration = project.params.registration.model_copy(update={"approval": "prefect"})
    with caplog.at_level("INFO"):
        register.run(project.workspace, project.params.model_copy(update={"registration": registration}))
    assert "version 1 waits for approval: resume the paused flow run in Prefect, or run `reelnest register --approved" in caplog.text


def test_a_missing_candidate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="Run `reelnest train` first"):
        Candidate.of(tmp_path / "nothing")


def test_requirements_are_versions_that_pip_can_find() -> None:
    requirements = dict(line.split("==") for line in pinned_requirements())
    assert {"torch", "transformers", "mlflow", "decord2"} <= set(requirements)
    assert not any("+" in version for version in requirements.values())
