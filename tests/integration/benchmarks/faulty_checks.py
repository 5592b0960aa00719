"""Checks that end badly."""

import os
import signal
import time

from benchmarks.gpu.reporting import Run


def dies(run: Run) -> None:
    run.figures(before=1)
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(run: Run) -> None:
    run.figures(before=2)
    time.sleep(600)


def lacks_memory(run: Run) -> None:
    raise RuntimeError("CUDA error: out of memory")


def disagrees(run: Run) -> None:
    run.require(1 + 1 == 3, "1 + 1 is 2")
    with run.part("second part"):
        raise ValueError("wrong")
    run.figures(after=3.14159265)
