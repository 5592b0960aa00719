"""The Prefect server that a flow talks to: the one that is configured, or else one for as long as the flow runs."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tasks.process.runner import Command

WORK_POOL = "reelnest"
PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")
START_TIMEOUT_SECONDS = 120.0
SEND_TIMEOUT_SECONDS = 10.0


def server_command(port: int, *, pages: bool) -> list[str]:
    """Starts Prefect's server on this machine alone."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--ui" if pages else "--no-ui"]


def server_environment(folder: Path) -> dict[str, str]:
    """Keeps the runs in `prefect.db` beside MLflow's `mlflow.db`: a checkout's runs stay with it, whoever started its server.

    The slots that runs occupy are kept in files. Prefect would keep them in memory, and a server that starts anew would know of none:
    minutes later it refuses to prolong them, at which Prefect ends the runs that it was to let go on.
    """
    return {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder.resolve() / 'prefect.db'}",
        "PREFECT_HOME": str(folder.resolve() / "work" / "prefect"),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # The pages ask the server that they came from, whatever its port, through an SSH tunnel too. (Left alone, they ask port 4200.)
        "PREFECT_SERVER_UI_API_URL": "/api",
        # The address of another server, where one is set, would be followed by the server's own services.
        "PREFECT_API_URL": "",
    }


def free_port() -> int:
    """A port that nothing uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_answering(url: str) -> bool:
    """Whether something at the address answers without an error."""
    try:
        return httpx.get(url, timeout=2).status_code < 400
    except httpx.HTTPError:
        return False


@contextmanager
def prefect_api(folder: Path) -> Iterator[str]:
    """The address of the API that flows in this process talk to, until the block ends.

    Prefect would start such a server by itself, but end it before the last events are sent, and then print the tracebacks of that.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, get_current_settings, temporary_settings

    configured = get_current_settings().api.url
    if configured:
        yield str(configured)
        return
    port = free_port()
    address = f"http://127.0.0.1:{port}/api"
    with Command(server_command(port, pages=False), folder=folder, environment=server_environment(folder)) as server:
        _wait(server, f"{address}/health")
        # It has no pages, and ends with the flow: no address of a run's page is worth keeping.
        with temporary_settings({PREFECT_API_URL: address, PREFECT_UI_URL: ""}):
            try:
                yield address
            finally:
                send_what_waits()


def _wait(server: Command, url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not is_answering(url):
        if server.status is not None or time.monotonic() > deadline:
            lines = []
            while (line := server.line(timeout_seconds=0.2)) is not None:
                lines.append(line)
            raise RuntimeError("Prefect's server did not start. Its last lines:\n" + "\n".join(lines[-20:]))
        time.sleep(0.1)


def send_what_waits() -> None:
    """Sends the log lines and events that background threads still hold, while there is a server to send them to."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=SEND_TIMEOUT_SECONDS)
