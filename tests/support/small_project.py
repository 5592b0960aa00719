"""The project as git has it, in a repository of its own, with a small sample and a short training."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reelnest.records.behaviour_tests import KINDS
from reelnest.sample.sample import write_sample

ROOT = Path(__file__).parents[2]
TWINS = {"train": 20, "validation": 2, "test": 3}
COMMIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q")


def copy_tracked(folder: Path) -> None:
    """Copies each file that git tracks, with its uncommitted changes."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def make_clone(folder: Path) -> None:
    """The project as `git clone` gives it, with uncommitted changes committed."""
    copy_tracked(folder)
    run(["git", "init", "-q"], folder)
    run(["git", "add", "."], folder)
    run([*COMMIT, "-m", "The project"], folder)


def make_project(folder: Path, twins: Mapping[str, int] = TWINS) -> None:
    """`twins`: how many pairs of clips each split of the sample has."""
    copy_tracked(folder)
    (folder / "data.dvc").unlink()
    write_sample(folder / "data", twins=twins)
    change(folder, train={"epochs": 2, "batch_size": 16, "evaluate_every_epochs": 1}, launch={"config": "cpu-1"})
    # A training as short as this one gives no model that passes its behaviour tests.
    change(folder, register={"behaviour_passed": dict.fromkeys(KINDS, 0.0)})
    run(["git", "init", "-q"], folder)
    run(["dvc", "add", "data"], folder)
    run(["git", "add", "."], folder)
    run([*COMMIT, "-m", "The project"], folder)


def make_quick_project(folder: Path, twins: Mapping[str, int] = TWINS) -> None:
    """One whose stages take as little as they can, for tests of many runs, where no run starts but those that a test starts."""
    make_project(folder, twins)
    change(folder, train={"epochs": 1}, evaluate={"storage": ["float32"], "funnels": []})
    run([*COMMIT, "-am", "One epoch"], folder)
    remove_schedules(folder)


def remove_schedules(folder: Path) -> None:
    """A test's result must not depend on the time of day: a scheduled run takes a deployment's only slot."""
    deployments = yaml.safe_load((folder / "prefect.yaml").read_text())
    for deployment in deployments["deployments"]:
        deployment.pop("schedules", None)
    (folder / "prefect.yaml").write_text(yaml.safe_dump(deployments, sort_keys=False))
    run([*COMMIT, "-am", "No schedules"], folder)


def run_on_two_nodes(folder: Path, **resources: dict[str, Any]) -> None:
    """Has the launches of a project run as SLURM jobs, with a process on each of two nodes. `resources`: `launch.resources`."""
    shapes = folder / "configs" / "accelerate"
    shape = yaml.safe_load((shapes / "cpu-2.yaml").read_text())
    shape |= {"num_machines": 2, "num_processes": 2, "same_network": True, "rdzv_backend": "static"}
    (shapes / "two-nodes.yaml").write_text(yaml.safe_dump(shape))
    slurm = {"poll_seconds": 1.0, "lost_node_seconds": 20.0}
    change(folder, launch={"backend": "slurm", "config": "two-nodes", "slurm": slurm, "resources": resources})
    run(["git", "add", "."], folder)
    run([*COMMIT, "-m", "A cluster"], folder)


def environment(folder: Path) -> dict[str, str]:
    """The environment of a command of the project in `folder`."""
    binaries = Path(sys.executable).parent
    variables = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder / "src")}
    variables.pop("MLFLOW_TRACKING_URI", None)
    return variables


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def change(folder: Path, **sections: dict[str, Any]) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for section, values in sections.items():
        params[section].update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
