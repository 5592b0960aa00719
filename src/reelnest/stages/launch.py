"""Starting the stages that compute: training and embedding run under `accelerate launch`, on as many processes as `launch.config` says."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import yaml

from reelnest.errors import ReelnestError
from reelnest.settings import Params, launch_config_path, load_params
from reelnest.stages.workspace import Workspace

# What the tools below us do unasked: phone home, start servers of their own, unpickle. Whoever wants it sets the variable.
QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def prepare_process() -> None:
    """Sets the variables of `QUIET` that the environment leaves open, for this process and those it starts, and shows our own log lines."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("reelnest").setLevel(logging.INFO)


def accelerate_command(params: Params, workspace: Workspace, module: str, extra: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """The command line and environment that start `module` under accelerate.

    `extra` goes to `accelerate launch` as it is: a cluster passes `--machine_rank 1 --main_process_ip …` here.
    """
    path = launch_config_path(params, workspace.params)
    shape = yaml.safe_load(path.read_text(encoding="utf-8"))
    local_processes = max(1, int(shape["num_processes"]) // int(shape.get("num_machines", 1)))
    environment = dict(os.environ)
    if shape.get("use_cpu"):
        # Without the variable, `accelerate launch` runs one process however many the file asks for.
        environment["ACCELERATE_USE_CPU"] = "true"
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local_processes)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path), *extra, "-m", module]
    return command, environment


def launch(params: Params, workspace: Workspace, module: str, extra: Sequence[str] = ()) -> NoReturn:
    """Becomes the accelerate launcher: the same process, so that a signal to the stage reaches it."""
    command, environment = accelerate_command(params, workspace, module, extra)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)


def stage_main(run: Callable[[Workspace, Params], None]) -> int:
    """What a process started by accelerate does: read the settings, run the stage, and tell a user's error without a traceback.

    Returns the exit status.
    """
    prepare_process()
    workspace = Workspace()
    try:
        run(workspace, load_params(workspace.params))
    except ReelnestError as error:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"reelnest: error: {error}\n")
        return error.exit_status
    return 0
