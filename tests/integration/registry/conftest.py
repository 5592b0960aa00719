"""Evaluated workspaces, created once and copied."""

import shutil
from pathlib import Path

import pytest

from reelnest.stages import evaluate, register
from reelnest.stages.workspace import Workspace
from tests.integration.registry.candidate_workspace import Project, workspace_of, write_clip, write_workspace


@pytest.fixture(autouse=True)
def no_outer_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the MLflow settings of the environment."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def evaluated_folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A workspace with an evaluated candidate and its own store in `mlflow.db`."""
    root = tmp_path_factory.mktemp("evaluated") / "project"
    params = write_workspace(root, f"sqlite:///{root}/mlflow.db")
    shutil.copy(empty_store, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        evaluate.run(Workspace(root), params)
    return root


@pytest.fixture
def project(evaluated_folder: Path, empty_store: Path, tmp_path: Path) -> Project:
    """A copy of the evaluated workspace, with an empty store, that a test may change."""
    root = tmp_path / "project"
    shutil.copytree(evaluated_folder, root, symlinks=True, ignore=shutil.ignore_patterns("mlruns", "mlflow.db", "registration.json"))
    shutil.copy(empty_store, root / "mlflow.db")
    return workspace_of(root)


@pytest.fixture(scope="session")
def registered(evaluated_folder: Path) -> Project:
    """The evaluated and registered workspace. Version 1 is champion. Tests must not change it."""
    project = workspace_of(evaluated_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        register.run(project.workspace, project.params)
    return project


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small video file."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 40)
