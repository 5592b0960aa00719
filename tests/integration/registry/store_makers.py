"""Processes that make an MLflow database and can be killed meanwhile: `python -m tests.integration.registry.store_makers`.

MLflow takes seconds to import, so one process imports it and forks a child for each line "SECONDS SIGNAL FILE" of its standard input. The
child makes the database as a stage does, and gets the signal after so many seconds (0: none). The reply is how long the child lived.
"""

import os
import signal
import sys
import time
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 — what the children need

from reelnest.registry.connection import connect
from reelnest.settings import Params, Tracking


def make(seconds: float, name: str, file: Path) -> float:
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = 1
        try:
            connect(Params(tracking=Tracking(uri=f"sqlite:///{file}")))
            status = 0
        finally:
            os._exit(status)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.Signals[name])
    os.waitpid(child, 0)
    return time.monotonic() - began


def main() -> None:
    for line in sys.stdin:
        seconds, name, file = line.split(maxsplit=2)
        print(make(float(seconds), name, Path(file.strip())), flush=True)  # noqa: T201 (the test's report)


if __name__ == "__main__":
    main()
