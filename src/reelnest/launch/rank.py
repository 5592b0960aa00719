"""A rank, one of the processes that `accelerate launch` starts. It runs the `main()` of a module.

Usage: `accelerate launch --config_file configs/accelerate/cpu-2.yaml -m reelnest.launch.rank reelnest.stages.train`, as in `reelnest
train`. There are few imports, so that a rank is bound to its launcher before torch is loaded, which takes seconds.
"""

import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path

from reelnest.launch.command import prepare_process
from reelnest.launch.failures import FOLDER_VARIABLE, Failure, message
from reelnest.progress import Activity

LAUNCHER_VARIABLE = "REELNEST_LAUNCHER"
"""Environment variable with the launcher's process id."""
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Runs the module and returns the exit status. The launcher prints an error; without a launcher, rank 0 prints it."""
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    if launcher is not None:
        _die_with_launcher(int(launcher))
        # Ctrl-C in a terminal reaches all its processes. Only the launcher handles it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare_process()
    _, module, *arguments = sys.argv
    name = module.rpartition(".")[2]
    try:
        with Activity(name, shown=os.environ.get("RANK", "0") == "0"):  # importing torch takes seconds too
            importlib.import_module(module).main(arguments)
    except Exception as error:  # noqa: BLE001 -- its traceback is saved
        failure = Failure.of(error, int(os.environ.get("RANK", "0")))
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder is not None:
            failure.write(Path(folder))
        elif failure.rank == 0:
            sys.stderr.write(f"{message(failure, name, Path())}\n")
        return failure.status
    return 0


def _die_with_launcher(launcher: int) -> None:
    """Makes the kernel kill this process when the launcher's main thread, which started it, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
