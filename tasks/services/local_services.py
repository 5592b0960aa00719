"""Runs Prefect's server, MLflow's server and a worker on this machine, without Docker, until Ctrl-C.

Usage: `make up`, or `python -m tasks.services.local_services`. The ports come from PREFECT_PORT (4200) and MLFLOW_PORT (5000). Both servers
listen only on 127.0.0.1, because they have no passwords.
"""

import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from tasks.process.grace import stop_seconds
from tasks.process.runner import GRACE_SECONDS, TAIL_LINES, Command, CommandError, output_of, python_module, quieten, setting
from tasks.services.prefect_server import PREFECT, WORK_POOL, is_answering, server_command, server_environment

START_TIMEOUT_SECONDS = 180.0
MLFLOW_DATABASE = "mlflow.db"
LOCK = Path("work/services.lock")
"""Held while services run: those of a second `make up`, on other ports, would mark the first one's runs as crashed.

Not a lock of `tasks.process.locks`: what still saves after a kill need not keep services from starting.
"""
QUERY_SECONDS = "2"
"""How often the worker asks for runs. The default of ten makes a person wait for a run that they have just started."""


class ServicesError(Exception):
    """The services cannot start, or one of them ended. The text says which and what to do."""


def port(variable: str, default: int) -> int:
    """Returns the port in the environment variable, or `default`. Raises ServicesError if it is invalid or in use."""
    text = setting(variable) or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ServicesError(f"{variable}: '{text}' is not a port; expected a number from 1 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as error:
            raise ServicesError(
                f"Port {text} cannot be used ({error.strerror}). Perhaps `make up` is already running. To use another port:"
                f" make up {variable}={int(text) + 1}"
            ) from error
    return int(text)


def mlflow_command(folder: Path, mlflow_port: int) -> list[str]:
    """Returns the command that serves the store which runs on this machine use without a server.

    Artifacts do not go through the server but into `mlruns/`, so that they can also be read without it.
    """
    store = ["--backend-store-uri", f"sqlite:///{folder / MLFLOW_DATABASE}"]
    artifacts = ["--default-artifact-root", (folder / "mlruns").as_uri(), "--no-serve-artifacts"]
    # One process is enough for one machine; the default of four takes a minute to import on two cores.
    lean = ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    return [sys.executable, "-m", "mlflow", "server", *store, *artifacts, *lean, "--host", "127.0.0.1", "--port", str(mlflow_port)]


def main() -> int:
    """Runs until it is stopped or a service ends. Returns the exit status."""
    quieten()
    signal.signal(signal.SIGTERM, _stop)
    try:
        with ExitStack() as running:
            _serve(Path.cwd(), running)
    except (ServicesError, CommandError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stdout.write("\nStopped.\n")
    return 0


def _serve(folder: Path, running: ExitStack) -> None:
    (folder / LOCK).parent.mkdir(exist_ok=True)
    try:
        running.enter_context(FileLock(folder / LOCK, timeout=0))
    except Timeout:
        raise ServicesError(
            f"`make up` is already running in {folder}. Open the addresses that it printed, or end it with Ctrl-C."
        ) from None
    prefect_port, mlflow_port = port("PREFECT_PORT", 4200), port("MLFLOW_PORT", 5000)
    prefect, mlflow = f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}"
    services: dict[str, Command] = {}

    def start(name: str, argv: list[str], environment: dict[str, str], grace_seconds: float = GRACE_SECONDS) -> None:
        services[name] = running.enter_context(Command(argv, folder=folder, environment=environment, grace_seconds=grace_seconds))

    start("prefect", server_command(prefect_port, pages=True), server_environment(folder) | {"PREFECT_UI_URL": prefect})
    _write("Starting Prefect and MLflow (half a minute) …")
    store = [*python_module("tasks.services.mlflow_store"), str(folder / MLFLOW_DATABASE)]
    *lines, training_runs = output_of(store, folder=folder, environment={"MLFLOW_TRACKING_URI": ""})
    for line in lines:
        _write(line)
    start("mlflow", mlflow_command(folder, mlflow_port), {})
    _wait_until_ready(services, lambda: is_answering(f"{prefect}/api/health") and is_answering(f"{mlflow}/health"))

    client = {"PREFECT_API_URL": f"{prefect}/api", "MLFLOW_TRACKING_URI": mlflow}
    output_of(python_module("tasks.services.deploy"), folder=folder, environment=client)
    from tasks.process.orphans import end_orphaned_runs

    for name in end_orphaned_runs(client["PREFECT_API_URL"], WORK_POOL):
        _write(f"The run {name} was interrupted when its worker ended; it is marked as crashed.")
    # The last to start is the first to stop: a run may need its stage's full grace period, and then a server to report to.
    worker = [*PREFECT, "worker", "start", "--pool", WORK_POOL, "--type", "process"]
    start("worker", worker, client | {"PREFECT_WORKER_QUERY_SECONDS": QUERY_SECONDS}, grace_seconds=stop_seconds(folder))
    _write(_addresses(prefect, mlflow, training_runs, client))
    _show(services)


def _addresses(prefect: str, mlflow: str, training_runs: str, client: dict[str, str]) -> str:
    """Returns what to open, and what other shells need to use these servers."""
    exports = "\n".join(f"  export {name}={value}" for name, value in client.items())
    return f"""
Prefect (runs, schedule):       {prefect}
MLflow (training runs):         {mlflow}/{training_runs}
MLflow (registered models):     {mlflow}/#/models?workflowType=machine_learning

To use these servers in another shell:
{exports}
  reelnest run --set train.epochs=2        # starts a run; `reelnest run --help` explains it

Ctrl-C stops all services.
"""


def _wait_until_ready(services: dict[str, Command], ready: Callable[[], bool]) -> None:
    """Waits without printing the services' start messages. Raises ServicesError with the last lines if a service ends or none responds."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    last: deque[str] = deque(maxlen=TAIL_LINES)
    while not ready():
        last += _new_lines(services)
        ended = _ended(services)
        if ended or time.monotonic() > deadline:
            last += _new_lines(services)
            cause = f"{ended} ended" if ended else f"The servers did not respond within {START_TIMEOUT_SECONDS:g} s"
            raise ServicesError("\n".join([*last, f"{cause}; all services were stopped."]))


def _show(services: dict[str, Command]) -> None:
    """Prints the services' output while all run. Raises ServicesError when one ends."""
    while True:
        ended = _ended(services)
        for line in _new_lines(services):
            _write(line)
        if ended:
            raise ServicesError(f"{ended} ended; all services were stopped.")


def _ended(services: dict[str, Command]) -> str:
    return ", ".join(f"{name} (status {service.status})" for name, service in services.items() if service.status is not None)


def _new_lines(services: dict[str, Command]) -> Iterator[str]:
    for name, service in services.items():
        while (line := service.line(timeout_seconds=0.1)) is not None:
            if line:
                yield f"{name:>8} | {line}"


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
