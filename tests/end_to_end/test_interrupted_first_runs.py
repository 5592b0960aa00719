"""A command's first run is interrupted at a drawn moment. The same command then succeeds, with the result of a run without interrupts."""

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.small_project import change, environment, make_quick_project, run

pytestmark = [pytest.mark.series, pytest.mark.timeout(1500)]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
STORE = ("mlflow.db", "mlruns")


class FirstRun(NamedTuple):
    """A command, how often it is interrupted, and the longest time until then, in seconds."""

    command: tuple[str, ...]
    interrupts: int
    seconds: float


COMMANDS = {
    "evaluate": FirstRun(("reelnest", "evaluate"), 8, 20),
    "models": FirstRun(("reelnest", "models"), 8, 4),
    "register": FirstRun(("reelnest", "register"), 8, 25),
    "demo": FirstRun(("make", "demo"), 6, 100),
}
CASES = [(name, number) for name, first_run in COMMANDS.items() for number in range(first_run.interrupts)]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `reelnest evaluate`, with MLflow's store."""
    folder = tmp_path_factory.mktemp("interrupts") / "project"
    make_quick_project(folder)
    for stage in ("validate", "preprocess", "train", "evaluate"):
        run(["reelnest", stage], folder)
    return folder


@pytest.fixture
def project(evaluated: Path, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "project"
    shutil.copytree(evaluated, folder, symlinks=True)
    yield folder
    shutil.rmtree(folder)


def remove(folder: Path, *names: str) -> None:
    for path in (folder / name for name in names):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def prepare(name: str, folder: Path, chance: random.Random) -> None:
    """Removes what the command's first run has to make; in half of the cases MLflow's store too, as in a clone that pulled the model."""
    if name in ("models", "demo") or chance.random() < 0.5:
        remove(folder, *STORE)
    if name == "evaluate":
        remove(folder, "reports")
    if name == "demo":
        assert (Path(sys.prefix) / "bin/.installed").exists(), "run the tests in the virtual environment that make made"
        remove(folder, "data", "prepared", "models", "reports", "work", ".dvc/cache", "dvc.lock")
        change(folder, train={"epochs": 1})
        (folder / ".venv").symlink_to(sys.prefix)
        for name in ("pyproject.toml", "requirements.lock"):  # older than the virtual environment, so that make does not install again
            os.utime(folder / name, (0, 0))


def interrupt(command: tuple[str, ...], folder: Path, seconds: float, number: int) -> str:
    """Runs the command, and sends it a signal after some seconds: Ctrl-C reaches the process group, the other signals the command alone."""
    with (folder / "interrupted.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=log, stderr=log, start_new_session=True)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        process.wait(120)
        wait_for_group(process.pid)
    return (folder / "interrupted.log").read_text(encoding="utf-8", errors="replace")[-2000:]


def repeat(command: tuple[str, ...], folder: Path) -> None:
    """Runs the command again, to its end."""
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def wait_for_group(group: int) -> None:
    """Waits for the children that outlive a killed parent: a stage's guard gives them some seconds to end."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("processes outlived the interrupted command by 150 s")


def metrics(folder: Path) -> Any:
    return json.loads((folder / "reports/metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "number"), CASES, ids=lambda value: str(value))
def test_after_an_interrupt_the_same_command_succeeds(name: str, number: int, project: Path, evaluated: Path) -> None:
    chance = random.Random(f"{name} {number}")
    prepare(name, project, chance)
    first_run = COMMANDS[name]
    sent, seconds = SIGNALS[number % len(SIGNALS)], chance.uniform(0, first_run.seconds)
    shown = interrupt(first_run.command, project, seconds, sent)
    logging.info("%s, %s after %.1f s: %s", name, sent.name, seconds, shown)
    repeat(first_run.command, project)
    if name == "evaluate":
        assert metrics(project) == metrics(evaluated)
    if name == "register":
        assert json.loads((project / "reports/registration.json").read_text(encoding="utf-8"))["version"] in (1, 2)
        run(["reelnest", "models"], project)
    if name == "demo":
        assert "challenger" in run(["reelnest", "models"], project) or "champion" in run(["reelnest", "models"], project)
    assert not list(project.glob(".mlflow.db*")), "a half-made store is left"
