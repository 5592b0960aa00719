"""A check that the expected number of processes work together."""

from pathlib import Path

from reelnest.errors import TrainingError
from reelnest.settings import Params, launch_processes


def check_process_count(together: int, command: str, params: Params, params_file: Path) -> None:
    """Raises TrainingError if the number of processes that work together differs from `launch.config`.

    accelerate may silently start one process instead of several, or several that are not connected.
    """
    expected = launch_processes(params, params_file)
    if together != expected:
        raise TrainingError(
            f"{command}: {together} processes work together; launch.config '{params.launch.config}' expects {expected}."
            f" Start it with `reelnest {command}`, or set launch.config to a file with num_processes {together}."
        )
