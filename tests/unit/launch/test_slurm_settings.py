"""What `launch.slurm` changes in the command lines of `sbatch` and `srun`, in the script and in the environment of a job."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reelnest.cli import cli
from reelnest.launch.command import launch_command
from reelnest.launch.jobs.job import MARKS, Job, JobSpec
from reelnest.launch.jobs.nodes import launcher_variables
from reelnest.launch.jobs.slurm import batch_script, environment, sbatch_arguments
from reelnest.launch.jobs.slurm_job import cpus_of_this_node, srun_arguments
from reelnest.settings import Params, load_params
from tasks.process import guard

ROOT = Path(__file__).parents[3]


def specification(config: str = "multi-node", **settings: Any) -> JobSpec:
    values = load_params(ROOT / "params.yaml").model_dump(by_alias=True)
    values["launch"] = {"backend": "slurm", "config": config, "grace_seconds": 30.5, "slurm": settings}
    command, _ = launch_command(Params.model_validate(values), ROOT / "params.yaml", "reelnest.stages.train", ["--max_restarts=0"])
    assert command[:-1] == [sys.executable, "-m", "reelnest.launch.jobs.follower"]
    return JobSpec.from_json(command[-1])


def of_stage(stage: str, resources: dict[str, Any]) -> JobSpec:
    values = load_params(ROOT / "params.yaml").model_dump(by_alias=True)
    launch = {"backend": "slurm", "config": "gpu-1", "slurm": {"partition": "gpu", "gpus_per_node": 8}, "resources": resources}
    params = Params.model_validate({**values, "launch": launch})
    command, _ = launch_command(params, ROOT / "params.yaml", f"reelnest.stages.{stage}")
    return JobSpec.from_json(command[-1])


def job(folder: Path, **settings: Any) -> Job:
    made = Job(folder / "job")
    made.begin(specification(**settings))
    return made


@pytest.mark.parametrize(
    ("name", "value", "argument"),
    [
        ("partition", "gpu", "--partition=gpu"),
        ("account", "search", "--account=search"),
        ("qos", "low", "--qos=low"),
        ("time", "1-00:00:00", "--time=1-00:00:00"),
        ("constraint", "a100|h100", "--constraint=a100|h100"),
        ("reservation", "nightly", "--reservation=nightly"),
        ("gres", "gpu:a100:8", "--gres=gpu:a100:8"),
        ("gpus_per_node", 8, "--gpus-per-node=8"),
        ("gpus_per_node", "a100:8", "--gpus-per-node=a100:8"),
        ("cpus_per_task", 12, "--cpus-per-task=12"),
        ("mem", "64G", "--mem=64G"),
        ("exclusive", True, "--exclusive"),
        ("sbatch_arguments", ["--mail-type=FAIL"], "--mail-type=FAIL"),
        ("requeues", 0, "--no-requeue"),
    ],
)
def test_a_setting_becomes_an_argument_of_sbatch(name: str, value: Any, argument: str, tmp_path: Path) -> None:
    assert argument not in sbatch_arguments(job(tmp_path), "script.sh")
    assert argument in sbatch_arguments(job(tmp_path, **{name: value}), "script.sh")


def test_a_job_is_held_named_and_given_notice_of_its_end(tmp_path: Path) -> None:
    made = job(tmp_path)
    arguments = sbatch_arguments(made, "script.sh")
    assert arguments[-1] == "script.sh"
    assert {"--hold", "--requeue", "--nodes=2", "--ntasks-per-node=1", "--signal=B:TERM@91"} <= set(arguments)
    assert f"--job-name={made.spec.name}" in arguments
    assert f"--chdir={Path.cwd()}" in arguments


def test_a_percent_sign_in_a_path_is_no_pattern_of_slurm(tmp_path: Path) -> None:
    made = job(tmp_path / "100%job")
    assert f"--output={tmp_path}/100%%job/" in " ".join(sbatch_arguments(made, "script.sh"))
    assert "--output=/a/%%j" in srun_arguments(made.spec, "host", 1, Path("/a/%j"))


def test_the_prologue_runs_before_the_job(tmp_path: Path) -> None:
    script = batch_script(job(tmp_path, prologue=["module load cuda", "export A='b c'"])).splitlines()
    assert script[:3] == ["#!/bin/bash", "module load cuda", "export A='b c'"]
    assert script[3:] == [f"exec {sys.executable} -m reelnest.launch.jobs.slurm_job {tmp_path / 'job'}"]


def test_each_node_starts_a_launcher_with_its_own_rank() -> None:
    arguments = srun_arguments(specification(), "10.1.2.3", 20123, Path("/job/log.txt"))
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--output=/job/log.txt"} <= set(arguments)
    launched = arguments[-1]
    assert f"--config_file {ROOT / 'configs/accelerate/multi-node.yaml'} --max_restarts=0" in launched
    assert launched.startswith('export REELNEST_NODE="$SLURM_NODEID"; exec ')
    assert "--main_process_ip 10.1.2.3 --main_process_port 20123 -m" in launched
    assert launched.endswith("-m reelnest.launch.rank reelnest.stages.train")


def test_srun_gets_the_cpus_and_further_arguments() -> None:
    arguments = srun_arguments(specification(cpus_per_task=12, srun_arguments=["--mpi=none"]), "a", 1, Path("log"))
    assert {"--cpus-per-task=12", "--mpi=none"} <= set(arguments)
    assert not {"--cpus-per-task=12", "--mpi=none"} & set(srun_arguments(specification(), "a", 1, Path("log")))


def test_the_processes_of_a_node_share_its_cpus() -> None:
    spec = specification()  # eight processes on each node
    assert cpus_of_this_node({"SLURM_CPUS_ON_NODE": "32"}) == 32
    assert cpus_of_this_node({"SLURM_CPUS_ON_NODE": "32", "SLURM_CPUS_PER_TASK": "16"}) == 16
    assert launcher_variables(spec, 32, {})["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in launcher_variables(spec, 32, {"OMP_NUM_THREADS": "3"})


def test_the_socket_interface_is_that_of_nccl_and_gloo() -> None:
    assert "NCCL_SOCKET_IFNAME" not in launcher_variables(specification(), None, {})
    variables = launcher_variables(specification(socket_interface="ib0"), None, {})
    assert (variables["NCCL_SOCKET_IFNAME"], variables["GLOO_SOCKET_IFNAME"]) == ("ib0", "ib0")


def test_a_port_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="the last port must not be below the first"):
        specification(ports=[3000, 2000])


def test_a_job_gets_the_environment_without_the_marks_of_a_flow_and_variables_of_another_job() -> None:
    assert MARKS == guard.MARKS
    given = {"PATH": "/bin", MARKS: "a", "SLURM_CONF": "c", "SLURM_JOB_ID": "1", "SBATCH_HOLD": "1", "SLURMD_NODENAME": "n"}
    assert environment(given) == {"PATH": "/bin", "SLURM_CONF": "c"}


def test_the_name_of_a_job_is_that_of_its_stage_and_checkout_and_its_inputs_are_settings_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = specification()
    assert first.name.startswith("reelnest-train-")
    changed = specification(partition="gpu")
    assert changed.name == first.name
    assert changed.inputs != first.inputs
    monkeypatch.chdir(tmp_path)
    assert specification().name != first.name


def test_a_local_backend_starts_the_launcher_itself() -> None:
    values = load_params(ROOT / "params.yaml")
    command, variables = launch_command(values, ROOT / "params.yaml", "module")
    assert command[:3] == [sys.executable, "-m", "reelnest.launch.launcher"]
    assert variables["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize(("stage", "section"), [("train", "train"), ("evaluate", "evaluate"), ("measure", "evaluate")])
def test_the_resources_of_a_stage_replace_settings_of_slurm(stage: str, section: str) -> None:
    settings = of_stage(stage, {section: {"gpus_per_node": 1, "mem": "8G"}}).settings
    assert (settings["partition"], settings["gpus_per_node"], settings["mem"]) == ("gpu", 1, "8G")
    others = {name: {"gpus_per_node": 1} for name in ("preprocess", "train", "evaluate") if name != section}
    assert of_stage(stage, others).settings["gpus_per_node"] == 8


@pytest.mark.parametrize(
    ("resources", "text"),
    [({"train": {"memory": "8G"}}, "resources.train.memory"), ({"evaluate": {"cpus_per_task": 0}}, "resources.evaluate.cpus_per_task")],
)
def test_resources_that_are_no_settings_of_slurm_are_refused(resources: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        of_stage("train", resources)


def test_preprocessing_is_a_job_of_one_process_if_it_has_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[JobSpec] = []

    def execve(_program: str, command: list[str], _environment: dict[str, str]) -> None:
        started.append(JobSpec.from_json(command[-1]))
        raise SystemExit

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    values = load_params(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    values["launch"] |= {"backend": "slurm", "resources": {"preprocess": {"partition": "cpu", "cpus_per_task": 32}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    CliRunner().invoke(cli, ["preprocess"])
    assert [spec.stage for spec in started] == ["preprocess"]
    assert (started[0].nodes, started[0].processes) == (1, 1)
    assert (started[0].settings["partition"], started[0].settings["cpus_per_task"]) == ("cpu", 32)
    values["launch"]["resources"]["preprocess"] = None
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    CliRunner().invoke(cli, ["preprocess"])
    assert len(started) == 1
