"""A newcomer's own data: the README's commands, as they are written there, on other videos than the sample's."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.small_project import ROOT, environment, make_clone, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands_of(section: str) -> list[str]:
    """The lines of a section's blocks that a reader types, without their comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (content,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s{2,}#\s.*", "", line) for block in BLOCK.findall(content) for line in block.splitlines()]
    return [line for line in lines if re.match(r"(rm|dvc|python|git|reelnest|cp) ", line) and not line.startswith("reelnest serve")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the sample."""
    folder = tmp_path_factory.mktemp("newcomer") / "reelnest"
    make_clone(folder)
    run(["git", "config", "user.name", "t"], folder)
    run(["git", "config", "user.email", "t@t"], folder)
    run(["reelnest", "sample"], folder)
    return folder


def typed(command: str, folder: Path) -> str:
    """What a command prints that a shell runs, with the virtual environment's programs on its path."""
    shell = ["bash", "-c", command]
    done = subprocess.run(shell, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_data_in_place_of_the_sample_ends_in_a_decided_model_that_can_be_searched_with(project: Path, shared_clips: Path) -> None:
    remove, *others = commands_of("Your own data")
    assert remove.startswith("rm ")
    behaviour = (project / "data/behaviour.jsonl").read_bytes()
    typed(remove, project)
    shutil.copytree(shared_clips, project / "data")
    (project / "data/behaviour.jsonl").write_bytes(behaviour)  # forgotten: it belongs to the sample
    shown = "".join(typed(command, project) for command in others if not command.startswith(("reelnest drift", "reelnest data")))
    assert "behaviour.jsonl is not used" in shown
    registration = json.loads((project / "reports/registration.json").read_text(encoding="utf-8"))
    assert registration["decision"] == "promoted", registration["reason"]
    assert run(["git", "status", "--porcelain"], project) == ""
    for command in commands_of("Using the model"):
        assert typed(command, project)


def test_the_presets_of_the_readme_are_checked_without_a_gpu(project: Path) -> None:
    for command in commands_of("A real model on a GPU"):
        if command.startswith(("cp ", "reelnest ")):
            typed(command, project)
    typed("git checkout -q params.yaml", project)


def test_after_a_reset_nothing_of_the_runs_is_left(project: Path) -> None:
    reset, *_ = commands_of("Reset and uninstall")
    typed(reset, project)
    assert {path.name for path in project.iterdir() if path.name in {"data", "prepared", "models", "reports", "work", "index"}} == set()
    assert not list(project.glob("mlflow.db*"))
