"""The command line that runs a module on the number of processes in `launch.config`."""

import codecs
import gc
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from reelnest.launch.jobs.job import JobSpec, inputs_digest
from reelnest.launch.jobs.kubernetes_manifest import read_template
from reelnest.launch.quiet import QUIET
from reelnest.launch.usage import VARIABLE, holding_of
from reelnest.progress import LogHandler
from reelnest.settings import Kubernetes, Params, Resources, launch_config_path
from reelnest.yaml_files import load_yaml

PACKAGE = Path(__file__).parents[1]
RESOURCES = {"reelnest.stages.measure": "evaluate"}
"""The stage whose `launch.resources` another module uses."""
GARBAGE_OBJECTS = 100_000
"""New objects between two searches for garbage. Records and libraries are many objects without cycles; searching them as often as Python
does by default takes a fifth of the time of validation."""


def prepare_process() -> None:
    """Sets the variables of `QUIET` that are not set, for this process and its children, and enables the log lines of reelnest.

    Prints UTF-8 where the locale has only ASCII. Searches for garbage less often.
    """
    gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # in the C locale, printing a name must not fail
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True, handlers=[LogHandler()])
    logging.getLogger("reelnest").setLevel(logging.INFO)


def launch_command(
    params: Params, params_file: Path, module: str, extra: Sequence[str] = (), inputs: Sequence[Path] = ()
) -> tuple[list[str], dict[str, str]]:
    """Returns the command line and environment that run the `main()` of `module` under accelerate. Append the arguments of `main`.

    `launch.backend` decides whether it runs on this machine or as a job of a cluster. `extra` is passed to `accelerate launch` unchanged.
    `inputs` are the folders that `module` reads: a job that was started with others is not followed.
    """
    path = launch_config_path(params, params_file).resolve()
    shape = load_yaml(path.read_text(encoding="utf-8"))
    nodes = int(shape.get("num_machines", 1))
    environment = dict(os.environ)
    if shape.get("use_cpu"):
        # Without the variable, `accelerate launch` runs one process, whatever the file's num_processes is.
        environment["ACCELERATE_USE_CPU"] = "true"
    options = ("--config_file", str(path), *extra)
    stage = RESOURCES.get(module, module.rpartition(".")[2])
    settings = params.launch.job_settings(stage) if stage in Resources.model_fields else params.launch.slurm
    template = read_template(Path(settings.template)) if isinstance(settings, Kubernetes) else {}
    holding = holding_of(params.launch, stage, settings, shape, template)
    if params.launch.backend == "local":
        environment[VARIABLE] = json.dumps(asdict(holding))
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) * nodes // int(shape["num_processes"]))))
        command = [sys.executable, "-m", "reelnest.launch.launcher", str(params.launch.grace_seconds), *options]
        return [*command, "-m", "reelnest.launch.rank", module], environment
    texts = [params.model_dump_json(), path.read_text(encoding="utf-8"), json.dumps(template)]
    spec = JobSpec(
        root=str(Path.cwd()),
        module=module,
        arguments=(),
        python=sys.executable,
        options=options,
        nodes=nodes,
        processes=int(shape["num_processes"]),
        grace_seconds=params.launch.grace_seconds,
        inputs=inputs_digest(texts, [PACKAGE, *inputs]),
        settings=settings.model_dump(mode="json"),
        backend=params.launch.backend,
        holding=asdict(holding),
    )
    return [sys.executable, "-m", "reelnest.launch.jobs.follower", spec.to_json()], environment


def launch(params: Params, params_file: Path, module: str, extra: Sequence[str] = (), inputs: Sequence[Path] = ()) -> NoReturn:
    """Replaces this process with the launcher, so that a signal to the stage reaches the launcher."""
    command, environment = launch_command(params, params_file, module, extra, inputs)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)
