"""Training and embedding processes are started by accelerate, as many as the launch file says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reelnest.settings import Params, load_params
from reelnest.stages.launch import accelerate_command
from reelnest.stages.workspace import Workspace

ROOT = Path(__file__).parents[3]

PROBE = """
import os, sys
import torch.distributed as dist
from accelerate import Accelerator
state = Accelerator()
total = __import__("torch").ones(1)
if state.num_processes > 1:
    dist.all_reduce(total)
print(f"rank={state.process_index} world={state.num_processes} summed={int(total)} device={state.device.type} "
      f"threads={os.environ['OMP_NUM_THREADS']}\\n", end="", flush=True)
state.end_training()
sys.exit(int(os.environ.get("PROBE_STATUS", "0")))
"""


def probe(config: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "launch_probe.py").write_text(PROBE)
    params = load_params(ROOT / "params.yaml")
    params = Params.model_validate({**params.model_dump(by_alias=True), "launch": {"config": config}})
    command, started_with = accelerate_command(params, Workspace(ROOT), "launch_probe")
    return subprocess.run(
        command, env={**started_with, "PYTHONPATH": str(folder), **environment}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(("config", "processes"), [("cpu-1", 1), ("cpu-2", 2)])
def test_as_many_processes_run_as_the_file_says_and_they_reach_each_other(
    config: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = probe(config, tmp_path)
    assert done.returncode == 0, done.stderr
    threads = max(1, (os.cpu_count() or 1) // processes)
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith("rank="))
    assert lines == [f"rank={r} world={processes} summed={processes} device=cpu threads={threads}" for r in range(processes)]


def test_a_failing_worker_makes_the_launcher_fail(tmp_path: Path) -> None:
    assert probe("cpu-1", tmp_path, PROBE_STATUS="3").returncode != 0


def test_further_options_go_to_accelerate(tmp_path: Path) -> None:
    command, _ = accelerate_command(load_params(ROOT / "params.yaml"), Workspace(ROOT), "module", ["--machine_rank", "1"])
    assert command == [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(ROOT / "configs/accelerate/cpu-2.yaml")),
        *("--machine_rank", "1", "-m", "module"),
    ]
