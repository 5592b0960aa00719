"""A person's mistakes with a stage's inputs: each is reported in a line, before a process is started or torch is imported."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from reelnest import cli
from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.encoder.saved_settings import FORMAT, FORMAT_VERSION
from reelnest.records.formats import Pair, Side
from reelnest.store.frame_cache import FrameCache
from reelnest.store.frame_store_writing import write_store
from reelnest.store.prepared import STORE_FOLDER, write_tables

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose data is prepared, and in which a model was trained."""
    root = tmp_path_factory.mktemp("template")
    (root / "configs").symlink_to(ROOT / "configs")
    pairs = [Pair(Side("text", f"query {n}"), Side("text", f"document {n}"), 1.0, None, (), n) for n in range(16)]
    write_tables(root / "prepared", {}, pairs, ["train"] * 12 + ["test"] * 4)
    write_store(root / "prepared" / STORE_FOLDER, [], FrameCache(root / "work" / "frames"), 1.0, VISION)
    (root / "models" / "candidate").mkdir(parents=True)
    stored = {"format": FORMAT, "format_version": FORMAT_VERSION, "model": {"dims": [8, 32]}}
    (root / "models" / "candidate" / "reelnest.json").write_text(json.dumps(stored))
    return root


@pytest.fixture
def checkout(template: Path, tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    shutil.copytree(template, root, symlinks=True)
    write_settings(root)
    return root


def write_settings(root: Path, text: str = "") -> None:
    settings = {"train": {"batch_size": 8}, "launch": {"config": "cpu-2"}} | (yaml.safe_load(text) or {})
    (root / "params.yaml").write_text(yaml.safe_dump(settings))


class LaunchedError(Exception):
    """The launcher would have been started."""


Errors = Callable[[str, Path], tuple[int, list[str]]]


@pytest.fixture
def errors_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Errors:
    """Runs a stage's command in a checkout; returns its status and the lines that it printed."""

    def launched(*_arguments: object) -> None:
        raise LaunchedError

    def run(stage: str, root: Path) -> tuple[int, list[str]]:
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["reelnest", stage])
        monkeypatch.setattr(cli, "prepare_process", lambda: None)
        monkeypatch.setattr(cli, "launch", launched)
        with pytest.raises(SystemExit) as ended:
            cli.app()
        printed = capsys.readouterr()
        assert printed.out == ""
        return int(ended.value.code or 0), printed.err.splitlines()

    return run


@pytest.mark.parametrize(
    ("stage", "settings", "status", "message"),
    [
        ("train", "launch: {config: cpu2}", 2, "params.yaml: launch.config: there is no configs/accelerate/cpu2.yaml; known: cpu-1,"),
        ("train", "train: {batch_size: 0}", 2, "params.yaml: train.batch_size: Input should be greater than or equal to 2; found 0."),
        ("train", "train: {batch_size: 9}", 2, "params.yaml: train.batch_size: 9 pairs cannot be shared evenly by the 2 processes"),
        ("train", "train: {epochs: five}", 2, "params.yaml: train.epochs: Input should be a valid integer"),
        ("train", "train: {epoch: 5}", 2, "params.yaml: train.epoch: unknown setting; did you mean train.epochs?"),
        ("train", "model: {dims: [16, 8]}", 2, "params.yaml: model: dims must increase"),
        ("train", "model: {dims: [256]}", 2, "params.yaml: model.dims: 256 is above the embedding's width, 128"),
        ("train", "model: {name_or_path: Qwen/Qwen2.5-VL-3B-Instruct}", 2, "a Hub name, which needs a revision"),
        ("train", "train: {batch_size: 8, mixed_precision: fp16}", 2, "params.yaml: train.mixed_precision: fp16 needs a GPU"),
        ("evaluate", "evaluate: {extra_dims: [32]}", 2, "params.yaml: evaluate.extra_dims: 32 is not below 32"),
        ("evaluate", "evaluate: {depth: 0}", 2, "params.yaml: evaluate.depth: Input should be greater than or equal to"),
    ],
)
def test_a_wrong_setting_is_refused_before_a_process_is_started(
    stage: str, settings: str, status: int, message: str, checkout: Path, errors_of: Errors
) -> None:
    write_settings(checkout, settings)
    found, (line,) = errors_of(stage, checkout)
    assert found == status
    assert line.startswith("reelnest: error: ")
    assert message in line


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_stage_before_preprocess_says_what_to_run(stage: str, checkout: Path, errors_of: Errors) -> None:
    shutil.rmtree(checkout / "prepared")
    assert errors_of(stage, checkout) == (1, ["reelnest: error: prepared is missing. Run `reelnest preprocess`."])


def test_evaluation_before_training_says_what_to_run(checkout: Path, errors_of: Errors) -> None:
    shutil.rmtree(checkout / "models")
    assert errors_of("evaluate", checkout) == (1, ["reelnest: error: models/candidate is missing. Run `reelnest train`."])


def test_a_model_of_another_version_is_refused(checkout: Path, errors_of: Errors) -> None:
    path = checkout / "models" / "candidate" / "reelnest.json"
    path.write_text(path.read_text().replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99'))
    status, (line,) = errors_of("evaluate", checkout)
    assert status == 1
    assert line.startswith("reelnest: error: models/candidate/reelnest.json: format version 99, but this reelnest reads version")


def test_prepared_data_of_another_version_is_refused(checkout: Path, errors_of: Errors) -> None:
    shutil.copy(checkout / "prepared" / "items.parquet", checkout / "prepared" / "pairs.parquet")
    expected = "reelnest: error: prepared/pairs.parquet: written by another version. Run `reelnest preprocess` to recreate it."
    assert errors_of("train", checkout) == (1, [expected])


def test_a_report_that_cannot_be_read_is_refused(checkout: Path, errors_of: Errors) -> None:
    (checkout / "reports").mkdir()
    (checkout / "reports" / "behaviour.jsonl").write_text('{"kind": "direction"}\n')
    status, (line,) = errors_of("evaluate", checkout)
    assert status == 1
    assert line.startswith("reelnest: error: reports/behaviour.jsonl: not a file of behaviour tests")


def test_too_few_pairs_are_refused(checkout: Path, errors_of: Errors) -> None:
    pairs = [Pair(Side("text", "a"), Side("text", "b"), 1.0, None, (), 0)]
    write_tables(checkout / "prepared", {}, pairs, ["train"])
    assert "the training split has 1 pairs, too few for 2 processes" in errors_of("train", checkout)[1][0]
    assert "no pairs in the test split" in errors_of("evaluate", checkout)[1][0]


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_outside_of_a_project_the_missing_file_is_named(stage: str, tmp_path: Path, errors_of: Errors) -> None:
    status, (line,) = errors_of(stage, tmp_path)
    assert status == 2
    assert line.startswith("reelnest: error: params.yaml: no such file.")


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_inputs_are_checked_without_torch(stage: str, checkout: Path) -> None:
    """With good inputs the command becomes the launcher, which the test forbids as it forbids the import of torch."""
    forbid = 'import os, sys; sys.modules["torch"] = sys.modules["accelerate"] = None; del os.execve'
    command = [sys.executable, "-c", f"{forbid}; from reelnest.cli import app; app()", stage]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.splitlines()[-1].startswith("AttributeError: module 'os' has no attribute 'execve'")
