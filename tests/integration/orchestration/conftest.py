"""A real Prefect server, and a real DVC project whose four stages are quick stand-ins."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.process.runner import quieten

quieten()

ROOT = Path(__file__).parents[3]
STAND_IN = Path(__file__).with_name("stand_in_stage.py")
REPORTS = ROOT / "tests" / "support" / "reports.py"
DVC_YAML = """
stages:
  validate:
    cmd: python stand_in_stage.py validate
    deps: [data, stand_in_stage.py]
    params: [validate]
    outs: [reports/validation.json, reports/quarantine.jsonl, reports/data_docs]
  preprocess:
    cmd: python stand_in_stage.py preprocess
    deps: [data, reports/quarantine.jsonl]
    params: [preprocess]
    outs: [prepared, reports/preprocessing.json]
  train:
    cmd: python stand_in_stage.py train
    deps: [prepared]
    params: [train]
    outs: [models/candidate, reports/training.json, reports/training.csv]
  evaluate:
    cmd: python stand_in_stage.py evaluate
    deps: [prepared, models/candidate]
    params: [evaluate]
    outs: [reports/evaluation.json]
"""


@pytest.fixture(scope="package")
def prefect_server() -> Iterator[None]:
    """A server that ends with this folder's tests: it keeps its machine busy even when nobody asks it."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def template_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=folder, check=True)
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = false\n    check_update = false\n")
    shutil.copy(STAND_IN, folder)
    shutil.copy(REPORTS, folder / "valid_reports.py")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("validate: {x: 1}\npreprocess: {x: 1}\ntrain: {x: 1}\nevaluate: {x: 1}\n")
    (folder / "data").mkdir()
    (folder / "data" / "pairs.jsonl").write_text('{"query": "a", "target": "b"}\n')
    return folder


@pytest.fixture
def project(template_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own for each test, and the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(template_project, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def template_repository(template_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a team has it: committed, its data named by `data.dvc` and in DVC's cache."""
    folder = tmp_path_factory.mktemp("repository") / "project"
    shutil.copytree(template_project, folder)
    (folder / ".gitignore").write_text("/data/\n/prepared/\n/models/\n/reports/\n/work/\n__pycache__/\n")
    (folder / "behaviour.txt").write_text("")
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data"], cwd=folder, check=True)
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "The project"], cwd=folder, check=True)
    return folder


@pytest.fixture
def repository(template_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed project of its own for each test, and the current folder."""
    folder = tmp_path / "repository"
    shutil.copytree(template_repository, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def deployable(template_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed project with the flows and deployments of the real one."""
    folder = tmp_path_factory.mktemp("deployable") / "project"
    shutil.copytree(template_repository, folder)
    for name in ("flows", "tasks", "docker/pools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", folder)
    for command in ("add .", "-c user.name=t -c user.email=t@t commit --quiet --message=All"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="package")
def child_environment(prefect_server: None) -> dict[str, str]:
    """For a flow in a process of its own: it finds our modules, and the test's Prefect server."""
    from prefect.settings import get_current_settings

    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PREFECT_API_URL": str(get_current_settings().api.url)}
