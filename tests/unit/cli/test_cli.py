"""The command line: what a person types and reads."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
REELNEST = str(Path(sys.executable).with_name("reelnest"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def reelnest(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([REELNEST, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_help_names_every_stage(project: Path) -> None:
    shown = reelnest("--help", folder=project).stdout
    stages = ("sample", "validate", "preprocess", "train", "evaluate", "register")
    for command in (*stages, "deploy", "index", "search", "serve", "export", "params"):
        assert f"\n  {command} " in shown


def test_params_prints_the_settings_with_defaults_filled_in(project: Path) -> None:
    shutil.copy(ROOT / "configs/presets/qwen2.5-vl-3b-lora-8gb.yaml", project / "params.yaml")
    shown = yaml.safe_load(reelnest("params", folder=project).stdout)
    assert shown["model"]["lora"] == {"r": 16, "alpha": 32.0, "dropout": 0.05, "vision": False, "merge": False}
    assert shown["train"]["schedule"] == "cosine"


@pytest.mark.parametrize("command", ["params", "validate", "preprocess", "train", "evaluate", "register"])
def test_every_command_refuses_an_unknown_setting_before_anything_runs(command: str, project: Path) -> None:
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("learning_rate:", "learning_rat:"))
    before = sorted(project.iterdir())
    done = reelnest(command, folder=project)
    assert done.returncode == 2
    assert done.stderr == "reelnest: error: params.yaml: train.learning_rat: unknown setting; did you mean train.learning_rate?\n"
    assert sorted(project.iterdir()) == before


def test_a_command_outside_a_project_says_where_to_run_it(tmp_path: Path) -> None:
    done = reelnest("validate", folder=tmp_path)
    assert done.returncode == 2
    assert "no such file. Run this in the project's folder" in done.stderr
