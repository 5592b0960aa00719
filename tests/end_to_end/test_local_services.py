"""`make up` for real: both servers answer, a run of the deployment goes through the worker, and nothing is left when it ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.schedules import CronSchedule

from tasks.services.prefect_server import free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MARK = "REELNEST_TEST"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("flows", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    for command in ("init --quiet", "add .", "-c user.name=t -c user.email=t@t commit --quiet --message=All"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return tmp_path


def processes_of(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == name:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_services_start_run_the_deployment_and_leave_nothing_behind(checkout: Path) -> None:
    prefect, mlflow = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))},
        **{"PREFECT_HOME": str(checkout / "home"), "PREFECT_PORT": str(prefect), "MLFLOW_PORT": str(mlflow), MARK: checkout.name},
    }
    command = [sys.executable, "-m", "tasks.services.local_services"]
    with subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as services:
        assert services.stdout is not None
        try:
            shown = ""
            for line in services.stdout:
                shown += line
                if "worker |" in line and "started" in line:
                    break
            assert f"http://127.0.0.1:{prefect}\n" in shown
            assert f"http://127.0.0.1:{mlflow}\n" in shown
            assert httpx.get(f"http://127.0.0.1:{mlflow}/health").status_code == 200
            ports = {"PREFECT_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
            second = subprocess.run(command, cwd=checkout, env=environment | ports, capture_output=True, text=True, check=False, timeout=60)
            assert (second.returncode, second.stderr) == (
                1,
                f"`make up` is already running in {checkout}. Open the addresses that it printed, or end it with Ctrl-C.\n",
            )

            assert httpx.get(f"http://127.0.0.1:{prefect}/ui-settings").json()["api_url"] == "/api"  # the pages ask this server

            # Prefect's own client: SQLite may be busy for a moment, which the server answers with 503, and the client asks again.
            with SyncPrefectClient(f"http://127.0.0.1:{prefect}/api") as api:
                deployment = api.read_deployment_by_name("reelnest-train/nightly")
                assert isinstance(deployment.schedules[0].schedule, CronSchedule)
                assert deployment.schedules[0].schedule.cron == "0 2 * * *"
                assert deployment.global_concurrency_limit is not None
                assert deployment.global_concurrency_limit.limit == 1
                # The form of the Run button says what to enter.
                assert "tag or commit" in str(deployment.parameter_openapi_schema)
                arrival = api.read_deployment_by_name("reelnest-train/on-new-data")
                assert [str(found.name) for found in api.read_resource_related_automations(f"prefect.deployment.{arrival.id}")]
                # Not the nightly one, whose own schedule may start a run meanwhile.
                run = api.create_flow_run_from_deployment(api.read_deployment_by_name("reelnest-train/by-hand").id)
                deadline = time.monotonic() + 120
                while run.state is None or not run.state.is_final():
                    assert time.monotonic() < deadline, run.state
                    time.sleep(0.5)
                    run = api.read_flow_run(run.id)
            # The checkout has no settings: the flow itself ran, from the deployment's folder, and says so.
            assert "has no params.yaml" in str(run.state.message)
        finally:
            services.send_signal(signal.SIGTERM)
            services.communicate(timeout=60)
    assert services.returncode == 0
    assert processes_of(checkout.name) == []
