"""The command line that runs a module on the number of processes in `launch.config`."""

import codecs
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from reelnest.launch.quiet import QUIET
from reelnest.progress import LogHandler
from reelnest.settings import Params, launch_config_path
from reelnest.yaml_files import load_yaml


def prepare_process() -> None:
    """Sets the variables of `QUIET` that are not set, for this process and its children, and enables the log lines of reelnest.

    Prints UTF-8 where the locale has only ASCII.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # in the C locale, printing a name must not fail
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True, handlers=[LogHandler()])
    logging.getLogger("reelnest").setLevel(logging.INFO)


def launch_command(params: Params, params_file: Path, module: str, extra: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Returns the command line and environment that run the `main()` of `module` under accelerate. Append the arguments of `main`.

    `extra` is passed to `accelerate launch` unchanged. A cluster passes `--machine_rank 1 --main_process_ip …` here.
    """
    path = launch_config_path(params, params_file)
    shape = load_yaml(path.read_text(encoding="utf-8"))
    local_processes = max(1, int(shape["num_processes"]) // int(shape.get("num_machines", 1)))
    environment = dict(os.environ)
    if shape.get("use_cpu"):
        # Without the variable, `accelerate launch` runs one process, whatever the file's num_processes is.
        environment["ACCELERATE_USE_CPU"] = "true"
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local_processes)))
    command = [sys.executable, "-m", "reelnest.launch.launcher", str(params.launch.grace_seconds), "--config_file", str(path), *extra]
    return [*command, "-m", "reelnest.launch.rank", module], environment


def launch(params: Params, params_file: Path, module: str, extra: Sequence[str] = ()) -> NoReturn:
    """Replaces this process with the launcher, so that a signal to the stage reaches the launcher."""
    command, environment = launch_command(params, params_file, module, extra)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)
