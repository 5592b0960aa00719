"""One run for each kind of fault (`fault_runs.py` does many), and a training on two processes that is cancelled and goes on."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from reelnest.commands.runs import Run
from tests.end_to_end.fault_runs import SETTINGS, Series, Settings, series_in
from tests.end_to_end.faults import FAULTS, Scene, cancel_by_page
from tests.end_to_end.supervised_services import wait_until
from tests.support.running_services import ended
from tests.support.small_project import run as command

pytestmark = [pytest.mark.series, pytest.mark.timeout(1200)]
TWO_PROCESSES: Settings = {"launch.config": "cpu-2", "train.epochs": 12, "train.evaluate_every_epochs": 2}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Series]:
    with series_in(tmp_path_factory.mktemp("faults")) as found:
        yield found


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_nothing_is_left_nothing_is_lost_and_the_next_run_ends_as_if_there_had_been_none(name: str, series: Series) -> None:
    chance = random.Random(name)
    report = series.with_fault(name, chance.choice(FAULTS[name].stages), SETTINGS[0], chance)
    assert report.violations == [], str(report)


def losses(project: Path, run: Run) -> str:
    """`reports/training.csv` of a kept run: the losses of every step, those before a resumption too."""
    lock = yaml.safe_load(command(["git", "show", f"{run.commit}:dvc.lock"], project))
    (digest,) = (out["md5"] for out in lock["stages"]["train"]["outs"] if out["path"] == "reports/training.csv")
    return (project / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).read_text()


def test_two_processes_that_are_cancelled_are_gone_and_the_training_goes_on_from_a_whole_checkpoint(series: Series) -> None:
    unbroken = series.completed(TWO_PROCESSES)
    series.forget("train", TWO_PROCESSES)
    scene = Scene(series.services, series.api, "train", random.Random(0))
    scene.run = series.api.read_flow_run(series.start(TWO_PROCESSES))
    checkpoints = scene.project / "work/checkpoints"
    wait_until(lambda: list(checkpoints.glob("*/step-*.pt")), "a checkpoint")
    time.sleep(scene.chance.uniform(0, 1))
    assert len(scene.stage_processes()) == 2
    cancel_by_page(scene)
    wait_until(lambda: not scene.processes(), "no process", 60)
    (cancelled,) = ended(series.api, [scene.run.id])
    assert cancelled.state_name == "Cancelled"

    saved = sorted(checkpoints.glob("*/step-*.pt"))
    steps = [torch.load(path, weights_only=True)["position"]["step"] for path in saved]
    assert steps
    assert not list(checkpoints.glob("*/.*"))  # nothing half-written beside them
    resumed = series.completed(TWO_PROCESSES)
    assert f"training: resuming after step {steps[-1]} of" in series.services.log.read_text()
    assert resumed.flow_run != str(scene.run.id)
    assert losses(series.project, resumed) == losses(series.project, unbroken)
    assert resumed.registration.model_hash == unbroken.registration.model_hash
