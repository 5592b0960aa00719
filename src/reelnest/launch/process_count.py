"""Whether as many processes work together as were asked for."""

from pathlib import Path

from reelnest.errors import TrainingError
from reelnest.settings import Params, launch_processes


def check_process_count(together: int, command: str, params: Params, params_file: Path) -> None:
    """Raises TrainingError where the number of processes that work together is not that of `launch.config`.

    accelerate may start one process where more were asked for, or several that know nothing of each other, and report neither.
    """
    expected = launch_processes(params, params_file)
    if together != expected:
        raise TrainingError(
            f"{command}: {together} processes work together here, but launch.config '{params.launch.config}' says {expected}."
            f" Start it with `reelnest {command}`, or set launch.config to a file whose num_processes is right."
        )
