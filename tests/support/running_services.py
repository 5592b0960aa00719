"""Prefect's server, MLflow's and a worker for a project, as `make up` starts them, for as long as a test needs them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun

from tasks.services.prefect_server import free_port

START_SECONDS = 240
RUN_SECONDS = 1200


@contextmanager
def running_services(project: Path) -> Iterator[SyncPrefectClient]:
    """Prefect's client. The lines of the services are in `services.log` beside the project."""
    prefect, mlflow = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))},
        **{"PREFECT_HOME": str(project.parent / "home"), "PREFECT_PORT": str(prefect), "MLFLOW_PORT": str(mlflow)},
        "PYTHONPATH": str(project / "src"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # a run is begun at once
    }
    log = project.parent / "services.log"
    with log.open("w") as shown:
        command = [sys.executable, "-m", "tasks.services.local_services"]
        services = subprocess.Popen(command, cwd=project, env=environment, stdout=shown, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not any("worker |" in line and "started" in line for line in log.read_text().splitlines()):
            assert services.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        with SyncPrefectClient(f"http://127.0.0.1:{prefect}/api") as api:
            yield api
    finally:
        services.send_signal(signal.SIGTERM)
        services.wait(120)


def start(api: SyncPrefectClient, deployment: str, **parameters: Any) -> UUID:
    """A run of a deployment, begun as the Run button begins it."""
    return api.create_flow_run_from_deployment(api.read_deployment_by_name(deployment).id, parameters=parameters).id


def ended(api: SyncPrefectClient, runs: Sequence[UUID]) -> list[FlowRun]:
    """The runs, when all have ended."""
    deadline = time.monotonic() + RUN_SECONDS
    while True:
        found = [api.read_flow_run(run) for run in runs]
        if all(run.state is not None and run.state.is_final() for run in found):
            return found
        assert time.monotonic() < deadline, [run.state for run in found]
        time.sleep(1)
