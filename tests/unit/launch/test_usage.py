"""What launches used: GPUs by settings, times of a job, cost, and the columns of `reelnest runs`."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from reelnest.commands.runs import Run, table
from reelnest.launch import usage
from reelnest.launch.command import launch_command
from reelnest.launch.jobs.job import JobSpec
from reelnest.launch.usage import HOUR, Holding, Meter, Usage, append_local, read_usage, total
from reelnest.settings import Params, load_params
from reelnest.stages.workspace import Workspace
from tasks.process.dvc import gpu_lock

ROOT = Path(__file__).parents[3]


def params(launch: dict[str, Any]) -> Params:
    values = load_params(ROOT / "params.yaml").model_dump(by_alias=True)
    template = str(ROOT / "configs" / "kubernetes" / "job.yaml")
    return Params.model_validate({**values, "launch": {**launch, "kubernetes": {"template": template, **launch.get("kubernetes", {})}}})


def holding(stage: str = "train", **launch: Any) -> Holding:
    command, variables = launch_command(params(launch), ROOT / "params.yaml", f"reelnest.stages.{stage}")
    if launch.get("backend", "local") == "local":
        return Holding(**json.loads(variables[usage.VARIABLE]))
    return Holding(**JobSpec.from_json(command[-1]).holding)


@pytest.mark.parametrize(
    ("launch", "gpus"),
    [
        ({"config": "cpu-2"}, 0),
        ({"config": "gpu-1"}, 1),
        ({"backend": "slurm", "config": "multi-node"}, 16),  # its processes
        ({"backend": "slurm", "config": "multi-node", "slurm": {"gpus_per_node": "a100:4"}}, 8),
        ({"backend": "slurm", "config": "cpu-2", "slurm": {"gpus_per_node": 1}}, 1),
        ({"backend": "slurm", "config": "gpu-1", "slurm": {"gres": "gpu:2"}}, 2),
        ({"backend": "slurm", "config": "gpu-1", "slurm": {"gres": "gpu:a100:2,gpu:h100,nic:4"}}, 3),
        ({"backend": "slurm", "config": "gpu-1", "slurm": {"gpus_per_node": 8}, "resources": {"train": {"gpus_per_node": 2}}}, 2),
        ({"backend": "kubernetes", "config": "multi-node"}, 2),  # one in each pod of the template
        ({"backend": "kubernetes", "config": "multi-node", "kubernetes": {"gpus": 8}}, 16),
    ],
)
def test_a_launch_holds_the_gpus_of_its_settings(launch: dict[str, Any], gpus: int) -> None:
    assert holding(**launch).gpus == gpus


def test_a_stage_with_its_own_template_holds_the_gpus_of_that(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "kubernetes" / "job.yaml").read_text()
    (tmp_path / "large.yaml").write_text(text.replace('nvidia.com/gpu: "1"', 'nvidia.com/gpu: "4"'))
    resources = {"train": {"template": str(tmp_path / "large.yaml")}}
    assert holding("train", backend="kubernetes", config="multi-node", resources=resources).gpus == 8
    assert holding("evaluate", backend="kubernetes", config="multi-node", resources=resources).gpus == 2


def test_the_price_is_that_of_the_partition_or_else_of_the_backend() -> None:
    prices = {"a100": 3.0, "slurm": 2.0, "kubernetes": 4.0}
    slurm = {"backend": "slurm", "config": "gpu-1", "prices": prices}
    assert holding(**slurm).gpu_hour_price == 2.0
    assert holding(**slurm, slurm={"partition": "a100"}).gpu_hour_price == 3.0
    assert holding(**slurm, slurm={"partition": "cpu"}).gpu_hour_price == 2.0
    assert holding(config="gpu-1", prices=prices).gpu_hour_price is None
    assert Holding("train", 8, 2.5).used(60.0, HOUR / 2) == Usage("train", 60.0, HOUR / 2, 4.0, 10.0)


def test_a_restarted_command_continues_the_times_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    meter = Meter(tmp_path / "usage.json")
    for seconds, is_running in ((5, False), (5, True), (30, True), (2, False), (3, True)):
        now += seconds
        meter.note(is_running=is_running)
    now += 100  # the command was killed, and the job ran on
    meter = Meter(tmp_path / "usage.json")
    meter.note(is_running=True)
    now += 7
    meter.note(is_running=False)
    assert meter.usage(Holding("train", 2, None)) == Usage("train", 13.0, 139.0, 2 * 139 / HOUR, None)


def test_the_launches_of_a_stage_are_added_up(tmp_path: Path) -> None:
    assert read_usage(tmp_path) == []
    for used in (Usage("train", 1, 10, 0.5, 1.0), Usage("evaluate", 0, 5, 0.25, None), Usage("train", 2, 20, 1.0, 2.0)):
        used.append(tmp_path)
    assert read_usage(tmp_path) == [Usage("train", 3, 30, 1.5, 3.0), Usage("evaluate", 0, 5, 0.25, None)]
    assert total(read_usage(tmp_path)).cost is None  # the price of some GPU hours is not known
    assert total([Usage("train", 1, 10, 0.5, 1.0), Usage("preprocess", 0, 5, 0.0, None)]).cost == 1.0


def test_a_line_that_a_full_disk_cut_short_costs_no_other_launch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    used = Usage("train", 1, 10, 0.5, 1.0)
    used.append(tmp_path)
    with (tmp_path / usage.FILE).open("a") as file:
        file.write('{"stage": "train", "queued_sec')
    used.append(tmp_path)
    assert read_usage(tmp_path) == [Usage("train", 2, 20, 1.0, 2.0)]
    assert '{"stage": "train", "queued_sec' in caplog.text


def test_a_stage_on_this_machine_notes_its_gpu_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    append_local(time.monotonic())  # not a stage
    assert read_usage(tmp_path) == []
    monkeypatch.setenv(usage.VARIABLE, json.dumps({"stage": "train", "gpus": 4, "gpu_hour_price": 2.0}))
    append_local(time.monotonic() - HOUR)
    (used,) = read_usage(tmp_path)
    assert (used.stage, round(used.gpu_hours, 2), round(used.cost or 0, 2)) == ("train", 4.0, 8.0)


def test_the_list_of_runs_shows_queue_gpu_hours_and_cost() -> None:
    stages = [Usage("train", 600, 7200, 16.0, 40.0), Usage("evaluate", 120, 600, 0.5, 1.25)]
    runs = [
        Run("a", "n", "HEAD", "0" * 40, {}, "2026", "2026", "train ran", "d", usage=stages),
        Run("b", "n", "HEAD", "0" * 40, {}, "2026", "2026", "", "d"),
    ]
    header, first, second, *_ = table(runs).splitlines()
    assert header.split()[5:] == ["queued", "GPU", "hours", "cost", "version"]
    assert first.split()[-5:] == ["12", "min", "16.50", "41.25", "-"]
    assert second.split()[-4:] == ["-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("stage", "launch", "waits"),
    [
        ("train", {"config": "gpu-1"}, True),
        ("evaluate", {"config": "gpu-1"}, True),
        ("preprocess", {"config": "gpu-1"}, False),
        ("train", {"config": "cpu-2"}, False),
        ("train", {"config": "gpu-1", "share_gpus": True}, False),
        ("train", {"config": "gpu-1", "backend": "slurm"}, False),
    ],
)
def test_runs_wait_for_each_other_if_they_use_this_machines_gpus(stage: str, launch: dict[str, Any], waits: bool, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "params.yaml").write_text(params(launch).model_dump_json(by_alias=True))
    path = gpu_lock(stage, Workspace(tmp_path))
    assert path == (tmp_path / "work" / "locks" / f"gpus-{socket.gethostname()}.lock" if waits else None)
