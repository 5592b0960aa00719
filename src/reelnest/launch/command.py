"""The command line that runs a module on as many processes as `launch.config` says."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from reelnest.launch.quiet import QUIET
from reelnest.settings import Params, launch_config_path
from reelnest.yaml_files import load_yaml


def prepare_process() -> None:
    """Sets the variables of `QUIET` that the environment leaves open, for this process and those it starts, and shows our own log lines."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("reelnest").setLevel(logging.INFO)


def launch_command(params: Params, params_file: Path, module: str, extra: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Returns the command line and the environment that run the `main()` of `module` under accelerate. Arguments of `main` go at its end.

    `extra` goes to `accelerate launch` as it is: a cluster passes `--machine_rank 1 --main_process_ip …` here.
    """
    path = launch_config_path(params, params_file)
    shape = load_yaml(path.read_text(encoding="utf-8"))
    local_processes = max(1, int(shape["num_processes"]) // int(shape.get("num_machines", 1)))
    environment = dict(os.environ)
    if shape.get("use_cpu"):
        # Without the variable, `accelerate launch` runs one process however many the file asks for.
        environment["ACCELERATE_USE_CPU"] = "true"
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local_processes)))
    command = [sys.executable, "-m", "reelnest.launch.launcher", str(params.launch.grace_seconds), "--config_file", str(path), *extra]
    return [*command, "-m", "reelnest.launch.rank", module], environment


def launch(params: Params, params_file: Path, module: str, extra: Sequence[str] = ()) -> NoReturn:
    """Becomes the launcher: the same process, so that a signal to the stage reaches it."""
    command, environment = launch_command(params, params_file, module, extra)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)
