"""Processes that accelerate starts: as many as the launch file says, stopped and ended with their launcher, with errors in two lines."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from reelnest.launch.command import launch_command
from reelnest.settings import Params, load_params

ROOT = Path(__file__).parents[3]

# Each rank says who it is, and then does what PROBE_RANK_N says.
PROBE = """
import os, pathlib, signal, sys, time

def count():
    import torch
    import torch.distributed as dist
    from accelerate import Accelerator
    state = Accelerator()
    total = torch.ones(1)
    if state.num_processes > 1:
        dist.all_reduce(total)
    # One write for each line: `print` writes the line's end by itself, and another rank's line may come between.
    sys.stdout.write(f"rank={state.process_index} world={state.num_processes} summed={int(total)} device={state.device.type} "
                     f"threads={os.environ['OMP_NUM_THREADS']}\\n")
    state.end_training()

def main(arguments):
    from reelnest.errors import DataError, Interrupted
    rank = os.environ.get("RANK", "0")
    what = os.environ.get(f"PROBE_RANK_{rank}", "count")
    stopped = []
    if what in ("save", "ignore"):
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    pathlib.Path(f"ready-{rank}").touch()
    if what == "refuse":
        raise DataError("data/pairs.jsonl: line 3: not JSON. Mend it.")
    if what == "bug":
        raise RuntimeError("a bug\\nwith a second line")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "count":
        return count()
    while True:
        time.sleep(0.05)
        if stopped and what == "save":
            time.sleep(1)  # the rest of its step
            pathlib.Path(f"saved-{rank}").touch()
            raise Interrupted("stopped after step 3")
"""


def settings(config: str, grace_seconds: float = 60.0) -> Params:
    params = load_params(ROOT / "params.yaml").model_dump(by_alias=True)
    return Params.model_validate({**params, "launch": {"config": config, "grace_seconds": grace_seconds}})


def start(config: str, folder: Path, *, grace_seconds: float = 60.0, **environment: str) -> subprocess.Popen[str]:
    (folder / "launch_probe.py").write_text(PROBE)
    command, started_with = launch_command(settings(config, grace_seconds), ROOT / "params.yaml", "launch_probe")
    path = os.pathsep.join([str(folder), started_with.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**started_with, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def probe(config: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    with start(config, folder, **environment) as launcher:
        out, err = launcher.communicate(timeout=120)
    return launcher.returncode, out, err


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)


@contextmanager
def running(
    config: str, folder: Path, what: str, *, grace_seconds: float = 60.0
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A launcher whose two ranks are at work, and these."""
    with start(config, folder, grace_seconds=grace_seconds, PROBE_RANK_0=what, PROBE_RANK_1=what) as launcher:
        try:
            wait_until(lambda: len(list(folder.glob("ready-*"))) == (2 if config == "cpu-2" else 1) or launcher.poll() is not None)
            ranks = psutil.Process(launcher.pid).children()
            yield launcher, ranks
        finally:
            launcher.kill()


@pytest.mark.parametrize(("config", "processes"), [("cpu-1", 1), ("cpu-2", 2)])
def test_as_many_processes_run_as_the_file_says_and_they_reach_each_other(
    config: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    status, out, err = probe(config, tmp_path)
    assert status == 0, err
    threads = max(1, (os.cpu_count() or 1) // processes)
    lines = sorted(line for line in out.splitlines() if line.startswith("rank="))
    assert lines == [f"rank={r} world={processes} summed={processes} device=cpu threads={threads}" for r in range(processes)]


def test_an_error_of_the_users_is_printed_once_and_alone(tmp_path: Path) -> None:
    status, _, err = probe("cpu-2", tmp_path, PROBE_RANK_0="refuse", PROBE_RANK_1="refuse")
    assert status == 1
    assert err == "reelnest: error: data/pairs.jsonl: line 3: not JSON. Mend it.\n"


@pytest.mark.parametrize(("config", "rank"), [("cpu-1", 0), ("cpu-2", 1)])
def test_an_unexpected_error_ends_in_two_lines_that_name_the_file_with_its_traceback(config: str, rank: int, tmp_path: Path) -> None:
    status, _, err = probe(config, tmp_path, **{"PROBE_RANK_0": "wait", f"PROBE_RANK_{rank}": "bug"})
    first, second = err.splitlines()
    assert status == 1
    assert first == f"reelnest: error: launch_probe, rank {rank}: RuntimeError: a bug"
    named = re.fullmatch("Its traceback is in (.*)", second)
    assert named is not None
    traceback = Path(named[1]).read_text()
    assert Path(named[1]).parent == tmp_path / "work" / "errors"
    assert "launch_probe.py" in traceback
    assert "a bug\nwith a second line" in traceback


def test_a_rank_that_is_killed_is_named_and_its_signal_is_the_status(tmp_path: Path) -> None:
    status, _, err = probe("cpu-2", tmp_path, PROBE_RANK_0="wait", PROBE_RANK_1="die")
    assert status == 128 + signal.SIGKILL
    (line,) = err.splitlines()
    assert line.startswith("reelnest: error: launch_probe: rank 1 was ended by SIGKILL.")


@pytest.mark.parametrize(("config", "number"), [("cpu-1", signal.SIGINT), ("cpu-2", signal.SIGTERM)])
def test_ranks_that_are_stopped_finish_their_step_and_save(config: str, number: signal.Signals, tmp_path: Path) -> None:
    with running(config, tmp_path, "save") as (launcher, ranks):
        launcher.send_signal(number)
        _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 75
    assert err == "reelnest: error: stopped after step 3\n"
    assert len(list(tmp_path.glob("saved-*"))) == len(ranks)


@pytest.mark.parametrize(("config", "number", "status"), [("cpu-1", signal.SIGINT, 130), ("cpu-2", signal.SIGTERM, 143)])
def test_an_interrupted_stage_says_so_in_one_line(config: str, number: signal.Signals, status: int, tmp_path: Path) -> None:
    with running(config, tmp_path, "wait") as (launcher, _):
        launcher.send_signal(number)
        _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == status
    assert err == f"reelnest: launch_probe was interrupted ({number.name}). The same command starts it again.\n"


def test_ranks_that_do_not_end_within_the_grace_are_killed(tmp_path: Path) -> None:
    with running("cpu-2", tmp_path, "ignore", grace_seconds=1) as (launcher, ranks):
        launcher.send_signal(signal.SIGTERM)
        _, err = launcher.communicate(timeout=120)
    assert (launcher.returncode, len(err.splitlines())) == (128 + signal.SIGTERM, 1)
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.parametrize("config", ["cpu-1", "cpu-2"])
def test_ranks_die_with_a_launcher_that_is_killed(config: str, tmp_path: Path) -> None:
    with running(config, tmp_path, "ignore") as (launcher, ranks):
        assert ranks
        launcher.kill()
        _, alive = psutil.wait_procs(ranks, timeout=20)
    assert not alive


def test_further_options_go_to_accelerate() -> None:
    command, _ = launch_command(settings("cpu-2"), ROOT / "params.yaml", "module", ["--machine_rank", "1"])
    assert command == [
        *(sys.executable, "-m", "reelnest.launch.launcher", "60.0"),
        *("--config_file", str(ROOT / "configs/accelerate/cpu-2.yaml")),
        *("--machine_rank", "1", "-m", "reelnest.launch.rank", "module"),
    ]


@pytest.mark.parametrize(
    ("argument", "words"), [("--machine_rnk=1", "unrecognized arguments: --machine_rnk=1."), ("extra", "unexpected argument: extra.")]
)
def test_an_argument_that_accelerate_does_not_know_is_named_in_one_line(argument: str, words: str, tmp_path: Path) -> None:
    command, environment = launch_command(settings("cpu-1"), ROOT / "params.yaml", "module", [argument])
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"reelnest: error: accelerate launch: {words} `accelerate launch --help` lists its options.\n"
