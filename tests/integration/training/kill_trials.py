"""Kills trainings with SIGKILL at random moments, starts each again, and compares it with an unbroken one, to the last bit.

Usage: `python -m tests.integration.training.kill_trials <empty folder> [--kills 20] [--processes 1 2] [--epochs 8] [--seed 0]`

Nothing is left out of the moments: the making of the model, steps, mining, evaluations, the writing of checkpoints and of what is kept of
the frozen vision tower, the saving of the candidate. With two processes, both are killed, or one of them. Processes are forked from this
one, which has imported everything: a moment in the import of a library would be a moment of nothing.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from reelnest.settings import load_params
from reelnest.stages import train
from reelnest.stages.workspace import Workspace
from tests.integration.training.training_workspace import training_report, write_prepared, write_workspace

SETTINGS: dict[str, Any] = {
    "model": {"lora": {"r": 4, "dropout": 0.2}},
    "loss": {"learn_temperature": True, "dim_weights": "learnt"},
    "mining": {"negatives_per_pair": 2, "every_steps": 4},
    "micro_batch_size": 2,
    "accumulation_steps": 2,
    "ema_decay": 0.9,
    "patience": 7,
    "checkpoint_every_minutes": 0.005,
}
LONGEST_SECONDS = 120.0
OUTPUTS = ("reports/training.csv", "models/candidate/model.safetensors")


def start(root: Path, processes: int) -> list[int]:
    """Starts a training and returns the ids of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_fork(root, rank, processes, port) for rank in range(processes)]


def _fork(root: Path, rank: int, processes: int, port: int) -> int:
    child = os.fork()
    return child if child else _train(root, rank, processes, port)


def _train(root: Path, rank: int, processes: int, port: int) -> NoReturn:
    status = 1
    try:
        with (root / f"log-{rank}.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ["ACCELERATE_USE_CPU"] = "true"
        if processes > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
        train.run(Workspace(root), load_params(root / "params.yaml"))
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as the one that it was forked from
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(children: list[int], seconds: float) -> list[int | None]:
    """Returns the exit status of each process (minus the signal), None for those that still run after `seconds`."""
    exit_codes: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(exit_codes) < len(children) and time.monotonic() < end:
        for child in children:
            if child not in exit_codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    exit_codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return [exit_codes.get(child) for child in children]


def kill(children: list[int]) -> None:
    """Kills the processes, as a crash would."""
    for child in children:
        os.kill(child, signal.SIGKILL)


def finish(root: Path, processes: int) -> None:
    """Trains, or resumes, to the end."""
    children = start(root, processes)
    statuses = wait(children, LONGEST_SECONDS)
    kill([child for child, status in zip(children, statuses, strict=True) if status is None])
    if statuses != [0] * processes:
        raise SystemExit(f"{root}: a training ended with {statuses}:\n" + (root / "log-0.txt").read_text()[-3000:])


def stop_at(root: Path, processes: int, moment: float, victim: int | None) -> bool:
    """Trains for `moment` seconds, then kills one process (the others then fail by themselves) or all. False if it had ended by then."""
    children = start(root, processes)
    before = wait(children, moment)
    if None not in before:
        return False
    running = [child for child, status in zip(children, before, strict=True) if status is None]
    kill(running if victim is None or children[victim] not in running else [children[victim]])
    after = wait(running, 30)
    left = [child for child, status in zip(running, after, strict=True) if status is None]
    kill(left)
    wait(left, 10)
    if left:
        raise SystemExit(f"{root}: a process went on for 30 seconds after the other one was killed")
    return True


def checkpoint_state(root: Path) -> str:
    """Describes how far a training came."""
    if (root / "models" / "candidate").exists():
        return "saved the candidate"
    saved = sorted(root.glob("work/checkpoints/*/step-*.pt"))
    seen = root / "work" / "progress.json"
    step = json.loads(seen.read_text())["step"] if seen.is_file() else 0
    cache_note = " and a feature cache" if any(root.glob("work/frozen/[!.]*")) else ""
    return f"about step {step}, {saved[-1].stem if saved else 'no checkpoint'}{cache_note}"


def trials(folder: Path, prepared: Path, processes: int, *, kills: int, epochs: int, seed: int) -> int:
    """Prints a line for each kill and returns the number of trainings with different results."""

    def workspace(name: str) -> Path:
        return write_workspace(folder / f"{processes}-{name}", prepared, launch=f"cpu-{processes}", epochs=epochs, **SETTINGS)

    unbroken = workspace("unbroken")
    started = time.monotonic()
    finish(unbroken, processes)
    seconds = time.monotonic() - started
    expected, report = [(unbroken / name).read_bytes() for name in OUTPUTS], training_report(unbroken)
    random = np.random.default_rng([seed, processes])
    different = done = 0
    while done < kills:
        root = workspace(f"killed-{done}")
        moment = float(random.uniform(0, seconds))
        victim = int(random.integers(processes)) if random.random() < 0.5 else None
        hit = stop_at(root, processes, moment, victim)
        if hit:
            where = checkpoint_state(root)
            finish(root, processes)
            equal = [(root / name).read_bytes() for name in OUTPUTS] == expected and training_report(root) == report
            different += not equal
            done += 1
            who = "all" if victim is None else f"process {victim}"
            verdict = "equal" if equal else "DIFFERENT"
            sys.stdout.write(f"{processes} processes, {moment:6.2f} s of {seconds:.2f}, {who} killed: {where}: {verdict}\n")
            sys.stdout.flush()
        else:
            seconds *= 0.9  # the machine became faster, and the moment is after the end
        shutil.rmtree(root)
    return different


def main() -> int:
    """Returns 0 if all trainings equal the uninterrupted one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    prepared = chosen.folder.resolve() / "prepared"
    write_prepared(prepared, chosen.folder / "scratch")
    settings = {"kills": chosen.kills, "epochs": chosen.epochs, "seed": chosen.seed}
    different = sum(trials(chosen.folder.resolve(), prepared, processes, **settings) for processes in chosen.processes)
    sys.stdout.write(f"{chosen.kills * len(chosen.processes)} kills, {different} different\n")
    return different > 0


if __name__ == "__main__":
    sys.exit(main())
