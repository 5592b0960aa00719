"""How long a stage gets to save when it is stopped, and that nobody who stops it waits for less."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from reelnest.settings import Launch
from tasks.process.grace import grace_seconds, stop_seconds
from tasks.process.locks import lock_or_none
from tasks.process.runner import Command, CommandError, run
from tasks.services.work_pools import job_template

ROOT = Path(__file__).parents[3]

# A stage that finishes its step after SIGTERM, saves and asks to be started again.
SAVER = """
import pathlib, signal, sys, time
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
print("at work", flush=True)
while not stopped:
    time.sleep(0.05)
time.sleep({step_seconds})
pathlib.Path("saved").touch()
sys.exit(75)
"""


class Cancelled(BaseException):
    """Not an Exception, as Prefect's is not."""


def saver(step_seconds: float) -> list[str]:
    return [sys.executable, "-c", SAVER.format(step_seconds=step_seconds)]


def stop_it(folder: Path, step_seconds: float, grace: float) -> None:
    def cancel(_line: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run(saver(step_seconds), on_line=cancel, folder=folder, grace_seconds=grace)


def test_a_stage_finishes_its_step_and_saves_within_its_grace(tmp_path: Path) -> None:
    stop_it(tmp_path, step_seconds=3, grace=60)
    assert (tmp_path / "saved").exists()


def test_a_stage_that_needs_longer_than_its_grace_is_killed(tmp_path: Path) -> None:
    stop_it(tmp_path, step_seconds=60, grace=1)
    assert not (tmp_path / "saved").exists()


def test_a_stopped_stage_ends_with_the_status_to_be_started_again(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as ended:
        run(saver(0.1), on_line=lambda _line: _stage(tmp_path).terminate(), folder=tmp_path, grace_seconds=60)
    assert ended.value.status == 75


def _stage(folder: Path) -> psutil.Process:
    return next(child for child in psutil.Process().children(recursive=True) if child.cwd() == str(folder) and "-c" in child.cmdline()[:2])


def test_a_stage_whose_flow_is_killed_keeps_its_grace_and_the_flows_lock_counts_as_held_until_it_has_saved(tmp_path: Path) -> None:
    """Prefect kills the process of a cancelled flow 30 s after SIGTERM."""
    lock = tmp_path / "stage.lock"
    flow = f"""
from pathlib import Path
from tasks.process.locks import waiting_lock
from tasks.process.runner import run
with waiting_lock(Path({str(lock)!r}), lambda: None):
    run({saver(3)!r}, on_line=lambda line: print(line, flush=True), folder=Path({str(tmp_path)!r}), grace_seconds=60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with subprocess.Popen([sys.executable, "-c", flow], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.kill()
    with lock_or_none(lock) as held:
        assert held is None
    with lock_or_none(lock, wait_seconds=60) as held:
        assert held is not None
        assert (tmp_path / "saved").exists()


def test_a_container_ends_after_what_its_command_left_has_saved(tmp_path: Path) -> None:
    """As a worker leaves a stage, in a session of its own, when it is stopped."""
    worker = f"""
import subprocess, sys, time
subprocess.Popen({saver(2)!r}, start_new_session=True)
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tasks.process.contained", sys.executable, "-c", worker]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == "at work\n"
        container.send_signal(signal.SIGTERM)
        assert container.wait(60) == 128 + signal.SIGTERM
        assert (tmp_path / "saved").exists()


def test_the_grace_is_that_of_params_yaml_whatever_its_other_sections_hold(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {x: 1}\nlaunch: {config: cpu-1, grace_seconds: 7.5}\n")
    assert grace_seconds(tmp_path) == 7.5
    assert stop_seconds(tmp_path) > 30 + 7.5


@pytest.mark.parametrize("text", [None, "launch: {grace_seconds: soon}", "train: {x: 1}", "launch: [", "- 1"])
def test_a_params_file_that_cannot_be_read_leaves_the_default(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    assert grace_seconds(tmp_path) == Launch().grace_seconds


def test_no_container_or_pod_that_runs_stages_is_killed_before_they_have_saved() -> None:
    needed = stop_seconds(ROOT)
    worker = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["worker"]
    assert int(worker["stop_grace_period"].removesuffix("s")) >= needed
    documents = yaml.safe_load_all((ROOT / "docker" / "kubernetes" / "worker.yaml").read_text())
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= needed
    (container,) = pod["containers"]
    for command in (worker["command"], container["args"]):
        assert command[:3] == ["python", "-m", "tasks.process.contained"]


def test_the_pods_of_a_kubernetes_pool_get_what_the_settings_ask_for(tmp_path: Path) -> None:
    (tmp_path / "docker" / "pools").mkdir(parents=True)
    (tmp_path / "docker" / "pools" / "kubernetes.json").write_text((ROOT / "docker" / "pools" / "kubernetes.json").read_text())
    (tmp_path / "params.yaml").write_text("launch: {grace_seconds: 1000}\n")
    template = job_template("kubernetes", tmp_path)
    assert template["variables"]["properties"]["stop_seconds"]["default"] == stop_seconds(tmp_path) > 1000
    assert '"terminationGracePeriodSeconds": "{{ stop_seconds }}"' in json.dumps(template["job_configuration"])


def test_a_command_without_a_grace_of_its_own_is_stopped_at_once() -> None:
    with Command([sys.executable, "-c", "import time; print('at work', flush=True); time.sleep(600)"]) as command:
        assert command.line(timeout_seconds=20) == "at work"
    assert command.status == 128 + signal.SIGTERM
