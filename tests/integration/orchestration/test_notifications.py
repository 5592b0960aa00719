"""A Prefect server with all its services: a run that died is crashed by our automation, and a webhook hears what people are to hear."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings
from prefect.states import Pending

from flows.drift import drift
from flows.pipeline import train_pipeline
from tasks import stages
from tasks.process.runner import Command
from tasks.services import automations
from tasks.services.prefect_server import PREFECT, flush_queues, free_port, is_answering, server_command, server_environment
from tasks.workspaces import drift_run
from tests.support.drift_reports import drift_report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[3]
SILENCE = timedelta(seconds=45)
"""Prefect's shortest pause between heartbeats is 30 s."""


@dataclass
class Server:
    """A Prefect server, and what its webhook was told."""

    folder: Path
    url: str
    environment: dict[str, str]
    told: list[dict[str, str]] = field(default_factory=list)
    answer: int = 200

    def message(self, subject: str) -> str:
        """The body of the one message about it."""
        wait_until(lambda: any(subject in found["subject"] for found in self.told), f"a message '{subject}' among {self.told}")
        return next(found["body"] for found in self.told if subject in found["subject"])

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting for {what}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    url = f"http://127.0.0.1:{port}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = clean | {"PREFECT_HOME": str(folder / "home"), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    found = Server(folder, url, environment | {"PREFECT_API_URL": f"{url}/api"})

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(found.answer)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    with (
        HTTPServer(("127.0.0.1", 0), Hook) as hook,
        (folder / "server.log").open("w") as log,
        subprocess.Popen(
            server_command(port, pages=False),
            env=environment | server_environment(folder) | {"PREFECT_UI_URL": url},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        found.environment["HOOK"] = f"http://127.0.0.1:{hook.server_address[1]}/hook?token=s3cr3t"
        try:
            wait_until(lambda: is_answering(f"{url}/api/health"), "the server")
            # Prefect keeps one events worker a process, bound to the server of its first event: an earlier test's, then this one's.
            flush_queues()
            with temporary_settings({PREFECT_API_URL: f"{url}/api", PREFECT_UI_URL: url}):
                yield found
                flush_queues()
        finally:
            process.terminate()
            hook.shutdown()


@pytest.fixture(scope="module")
def deployed(server: Server, deployable: Path) -> Path:
    command = [sys.executable, "-m", "tasks.services.deploy", "--webhook", "HOOK"]
    subprocess.run(command, cwd=deployable, env=server.environment, check=True)
    automations.keep(automations.on_death(SILENCE))
    return deployable


def read(run: FlowRun) -> State[Any]:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run.id).state
    assert state is not None
    return state


def start(deployment: str) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id)


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_run_whose_machine_is_gone_is_crashed_and_told_and_one_that_lives_is_not(server: Server, deployed: Path) -> None:
    (deployed / "behaviour.txt").write_text("validate hang\n")
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "Hang"], cwd=deployed, check=True)
    worker = [*PREFECT, "worker", "start", "--pool", "reelnest", "--type", "process"]
    with Command(worker, folder=deployed, environment=server.environment):
        run = start("reelnest-train/by-hand")
        wait_until(lambda: any((deployed / "work" / "runs").glob("*/worker-ready")) or read(run).is_final(), "the run's stage")
        time.sleep(SILENCE.total_seconds() + 15)
        assert read(run).is_running()
        for process in processes_in(deployed):
            process.send_signal(signal.SIGKILL)
        wait_until(lambda: read(run).is_final(), "the run's end")
    assert read(run).is_crashed()
    assert f"{server.url}/runs/flow-run/{run.id}" in server.message(f"{run.name} Crashed")


def test_a_run_that_never_began_is_crashed(server: Server, deployed: Path) -> None:
    automations.keep(automations.on_death(SILENCE, start=timedelta(seconds=10)))
    run = start("reelnest-train/nightly")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Pending())
    wait_until(lambda: read(run).is_final(), "the run's end")
    assert read(run).is_crashed()
    assert "did not start" in str(read(run).message)


def test_refused_and_drifted_data_a_failed_run_and_a_new_champion_are_told_with_links(
    server: Server, deployed: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "REGISTER", (sys.executable, "stand_in_stage.py", "register"))
    (project / "behaviour.txt").write_text("validate bad-data\n")
    report = drift_report()
    monkeypatch.setattr(drift_run, "measure", lambda *_, **__: drift_run.Measured(report["headline"], report))
    with tags("reelnest"):
        drifted = drift(return_state=True)
        bad = train_pipeline(return_state=True)
        (project / "behaviour.txt").unlink()
        good = train_pipeline(return_state=True)
    pages = {id(state): f"{server.url}/runs/flow-run/{state.state_details.flow_run_id}" for state in (bad, good, drifted)}

    refused = server.message("Data refused: 1 bad records")
    assert "3 of 4 videos" in refused
    assert f"{server.url}/artifacts/artifact/" in refused
    failed = next(found for found in server.told if pages[id(bad)] in found["body"] and "Failed" in found["subject"])
    assert "Stage validate failed." in failed["body"]
    champion = server.message("New champion: reelnest version 1")
    assert "http://mlflow.example/#/runs/r1" in champion
    told = server.message("Data drifted from reelnest version 3")
    assert "- length of texts: 0.449" in told
    assert pages[id(drifted)] in told
    assert pages[id(bad)] in refused
    assert pages[id(good)] in champion
    # A name or an error can neither call everybody nor be a link of its own.
    assert "<" not in refused + failed["body"]
    assert "‹!channel›" in refused


def test_a_receiver_that_refuses_does_not_bring_its_address_into_the_log(server: Server, deployed: Path, project: Path) -> None:
    server.answer = 404
    (project / "behaviour.txt").write_text("validate fail\n")
    before = len(server.told)
    with tags("reelnest"):
        assert train_pipeline(return_state=True).is_failed()
    wait_until(lambda: len(server.told) > before, "the message")
    time.sleep(5)
    server.answer = 200
    assert "s3cr3t" not in server.log()
