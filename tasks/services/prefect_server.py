"""The Prefect server of a flow: the configured one, or else a temporary one that runs as long as the flow."""

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
    """Returns the command that starts Prefect's server on 127.0.0.1."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--ui" if pages else "--no-ui"]


def server_environment(folder: Path) -> dict[str, str]:
    """Returns the server's environment. It stores runs in `prefect.db` beside MLflow's `mlflow.db`, so that they stay with the checkout.

    Concurrency slots are stored in files. By default they are in memory, so a restarted server does not know them, refuses to renew them,
    and Prefect ends their runs.
    """
    return {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder.resolve() / 'prefect.db'}",
        "PREFECT_HOME": str(folder.resolve() / "work" / "prefect"),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # The UI calls the server that it was loaded from, on any port and through an SSH tunnel. (The default is port 4200.)
        "PREFECT_SERVER_UI_API_URL": "/api",
        # Otherwise the server's own services would use another server's address, if one is set.
        "PREFECT_API_URL": "",
    }


def free_port() -> int:
    """Returns a port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_answering(url: str) -> bool:
    """Returns whether the URL responds without an error."""
    try:
        return httpx.get(url, timeout=2).status_code < 400
    except httpx.HTTPError:
        return False


@contextmanager
def prefect_api(folder: Path) -> Iterator[str]:
    """Yields the address of the API for flows in this process. A temporary server ends with the block.

    Prefect would start a temporary server by itself, but stop it before the last events are sent and print tracebacks.
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
        # It has no UI and ends with the flow, so links to its pages would be useless.
        with temporary_settings({PREFECT_API_URL: address, PREFECT_UI_URL: ""}):
            try:
                yield address
            finally:
                flush_queues()


def _wait(server: Command, url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not is_answering(url):
        if server.status is not None or time.monotonic() > deadline:
            lines = []
            while (line := server.line(timeout_seconds=0.2)) is not None:
                lines.append(line)
            raise RuntimeError("Prefect's server did not start. Its last lines:\n" + "\n".join(lines[-20:]))
        time.sleep(0.1)


def flush_queues() -> None:
    """Sends the log lines and events that are still queued in background threads. Call it while the server runs."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=SEND_TIMEOUT_SECONDS)
