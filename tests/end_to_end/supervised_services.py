"""Prefect's server, MLflow's and a worker for a project, each one a service of its own that can be broken and started again.

`make up` ends all of its services when one ends; in production a supervisor starts a lost one again. The commands, and the guard around
each, are those of `make up`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from prefect.client.orchestration import SyncPrefectClient

from tasks.process.orphans import end_orphaned_runs
from tasks.process.runner import Command, output_of, python_module
from tasks.services.local_services import mlflow_command
from tasks.services.prefect_server import PREFECT, WORK_POOL, free_port, is_answering, server_command, server_environment

MARK = "REELNEST_SERVED"
"""In the environment of everything that the services start, whatever becomes of them."""
QUICK = {"PREFECT_WORKER_QUERY_SECONDS": "2", "OMP_NUM_THREADS": "1"}
"""A run is begun at once; a training as small as these gains nothing by more threads, and loses much on a busy machine."""
START_SECONDS = 240


def wait_until(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.3)


class Services:
    """The services of one project. The lines of all are in `services.log` beside it."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.log = project.parent / "services.log"
        prefect, mlflow = free_port(), free_port()
        self.prefect, self.mlflow = f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}"
        own = {MARK: str(project), "PREFECT_HOME": str(project.parent / "home"), "PYTHONPATH": str(project / "src"), **QUICK}
        self.client = own | {"PREFECT_API_URL": f"{self.prefect}/api", "MLFLOW_TRACKING_URI": self.mlflow}
        self._commands = {
            "prefect": (server_command(prefect, pages=True), own | server_environment(project) | {"PREFECT_UI_URL": self.prefect}),
            "mlflow": (mlflow_command(project, mlflow), own),
            "worker": ([*PREFECT, "worker", "start", "--pool", WORK_POOL, "--type", "process"], self.client),
        }
        self._running: dict[str, Command] = {}

    def start(self) -> None:
        """All of them, in the order of `make up`."""
        self.start_service("prefect")
        self.start_service("mlflow")
        self.wait_for_servers()
        end_orphaned_runs(f"{self.prefect}/api", WORK_POOL)
        self.start_service("worker")

    def deploy(self) -> None:
        output_of(python_module("tasks.services.deploy"), folder=self.project, environment=self.client)

    def start_service(self, name: str) -> None:
        argv, variables = self._commands[name]
        before = self._shown("worker | ", " started")
        self._running[name] = Command(argv, folder=self.project, environment=variables, grace_seconds=30)
        threading.Thread(target=self._write_lines, args=(name, self._running[name]), daemon=True).start()
        if name == "worker":
            wait_until(lambda: self._shown("worker | ", " started") > before, "the worker")

    def wait_for_servers(self) -> None:
        def answer() -> bool:
            assert not self.ended("prefect"), self.log
            assert not self.ended("mlflow"), self.log
            return is_answering(f"{self.prefect}/api/health") and is_answering(f"{self.mlflow}/health")

        wait_until(answer, "the servers")

    def stop_service(self, name: str) -> None:
        """As a supervisor does, and what it left."""
        self._running.pop(name).stop()

    def process(self, name: str) -> psutil.Process:
        """The service's main process, not its guard."""
        mark = self._running[name].mark
        (guard,) = [child for child in psutil.Process().children() if mark in child.cmdline()]
        (process,) = guard.children()
        return process

    def ended(self, name: str) -> bool:
        return self._running[name].status is not None

    def kill_everything(self) -> None:
        """What a power cut does: all at once, guards included."""
        while found := self.processes():
            for process in found:
                try:
                    process.kill()
                except psutil.Error:
                    continue
            psutil.wait_procs(found, timeout=5)
        for command in self._running.values():
            command.stop()
        self._running.clear()

    def stop(self) -> None:
        for name in reversed(list(self._running)):
            self.stop_service(name)

    def processes(self) -> list[psutil.Process]:
        """Everything that the services started, themselves included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.project):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def processes_of(self, flow_run: str) -> list[psutil.Process]:
        """A flow run's own, and those of its stages."""
        found = []
        for process in self.processes():
            try:
                if process.environ().get("PREFECT__FLOW_RUN_ID") == flow_run:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def _write_lines(self, name: str, command: Command) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            while True:
                line = command.line(timeout_seconds=1)
                if line:
                    log.write(f"{time.strftime('%H:%M:%S')} {name:>7} | {line}\n")
                    log.flush()
                elif line is None and command.status is not None:
                    return

    def _shown(self, *words: str) -> int:
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return sum(all(word in line for word in words) for line in lines)


@contextmanager
def supervised_services(project: Path) -> Iterator[tuple[Services, SyncPrefectClient]]:
    """Running services and Prefect's client, for as long as the block takes."""
    services = Services(project)
    try:
        services.start()
        services.deploy()
        with SyncPrefectClient(f"{services.prefect}/api") as api:
            yield services, api
    finally:
        services.stop()
