"""Training in an environment without trackers, decoders, orchestration and checks: its engine alone, with what that requires."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.integration.training.training_workspace import ROOT, rows, run, training_report, write_workspace

ENGINE = ("torch", "transformers", "peft", "accelerate", "pydantic", "pyarrow", "scipy", "ruamel.yaml")
ABSENT = ("mlflow", "decord", "av", "prefect", "dvc", "great_expectations", "tensorboard", "pandas", "sqlalchemy", "requests")


def with_requirements(*names: str) -> set[str]:
    """The distributions and all that they require, as installed here."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            needed = [Requirement(line) for line in distribution(name).requires or []]
            waiting += [each.name.lower() for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return seen


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to the packages of the engine and to our own metadata, to use in place of `site-packages`."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name in {*with_requirements(*ENGINE), "reelnest"}:
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(installed.locate_file(top))).resolve())
    return folder


def python(packages: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with these packages and ours, and no `site-packages`."""
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(packages), str(ROOT / "src")]), "ACCELERATE_USE_CPU": "true"}
    return subprocess.run([sys.executable, "-S", *arguments], cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_training_needs_its_engine_alone_and_has_the_same_losses(prepared: Path, packages: Path, tmp_path: Path) -> None:
    settings = {"model": {"lora": {"r": 4}}, "mining": {"negatives_per_pair": 2}, "epochs": 2}
    complete = write_workspace(tmp_path / "complete", prepared, **settings)
    run(complete)
    lean = write_workspace(tmp_path / "lean", prepared, **settings, trackers=["mlflow", "tensorboard"])

    code = f"import importlib.util as u; print([name for name in {ABSENT} if u.find_spec(name)])"
    assert python(packages, tmp_path, "-c", code).stdout == "[]\n"
    done = python(packages, lean, "-m", "reelnest.launch.rank", "reelnest.stages.train")
    assert done.returncode == 0, done.stderr

    assert rows(lean) == rows(complete)
    assert training_report(lean) == training_report(complete)
    weights = [root / "models" / "candidate" / "model.safetensors" for root in (lean, complete)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    for title in ("MLflow", "TensorBoard"):
        assert done.stderr.count(f"{title} is not installed, so it does not record this training") == 1
    assert not (lean / "mlflow.db").exists()
