"""Work pools of type docker and kubernetes, made by `reelnest deploy` on a real Prefect server: what Prefect's own workers make of them."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml
from docker.models.containers import _create_container_args
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from tasks.services import deploy, work_pools
from tasks.services.prefect_server import WORK_POOL

pytestmark = pytest.mark.usefixtures("prefect_server")
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SIGN_IN = "reelnest:s3cr3t"
HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
ALL_GPUS = [{"count": -1, "capabilities": [["gpu"]]}]


def remove_pool() -> None:
    with get_client(sync_client=True) as client:
        try:
            client.delete_work_pool(WORK_POOL)
        except ObjectNotFound:
            return


@pytest.fixture(scope="module", autouse=True)
def _no_pool_stays() -> Iterator[None]:
    yield
    remove_pool()


@pytest.fixture(scope="module")
def docker_pool(deployable: Path, child_environment: dict[str, str]) -> Path:
    remove_pool()
    done = subprocess.run(
        [sys.executable, "-m", "tasks.services.deploy", "--pool", "docker"],
        cwd=deployable, env=child_environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "created, type docker" in done.stdout, done.stdout + done.stderr
    return deployable


@pytest.fixture(scope="module")
def kubernetes_pool(docker_pool: Path) -> Path:
    """The same deployments, moved to a pool of the other type."""
    remove_pool()
    assert "created, type kubernetes" in work_pools.keep("kubernetes", docker_pool)
    with get_client(sync_client=True) as client:
        for found in client.read_deployments():
            client.update_deployment(found.id, DeploymentUpdate(work_pool_name=WORK_POOL, job_variables=found.job_variables))
    return docker_pool


def as_the_worker_sees_it(kind: type[Any], deployment_name: str, **variables: Any) -> tuple[UUID, Any]:
    """A run of the deployment, with variables that a person entered, and the job that the worker would start for it."""

    async def resolve() -> tuple[UUID, Any]:
        async with get_client() as client:
            deployment = await client.read_deployment_by_name(deployment_name)
            run = await client.create_flow_run_from_deployment(deployment.id, job_variables=variables)
            pool = await client.read_work_pool(WORK_POOL)
            found = await kind.resolve_for_flow_run(run, client=client, work_pool=pool, worker_name="w", deployment=deployment)
            return run.id, found

    with temporary_settings({PREFECT_API_AUTH_STRING: SIGN_IN}):  # as the worker has it
        return asyncio.run(resolve())


def job_of(kind: type[Any], deployment: str, **variables: Any) -> Any:
    """The job alone; nobody is to start its run."""
    run, found = as_the_worker_sees_it(kind, deployment, **variables)
    with get_client(sync_client=True) as client:
        client.delete_flow_run(run)
    return found


def container(deployment: str, **variables: Any) -> dict[str, Any]:
    """What Docker's client would send to the engine."""
    configuration = job_of(DockerWorkerJobConfiguration, deployment, **variables)
    unused: Any = None
    settings = DockerWorker._build_container_settings(unused, unused, configuration)
    assert SIGN_IN not in str(settings)
    made: dict[str, Any] = _create_container_args({**settings, "version": "1.47"})
    return made


def job(deployment: str, folder: Path, **variables: Any) -> dict[str, Any]:
    """The Kubernetes job, which follows Kubernetes' schema."""
    configuration = job_of(KubernetesWorkerJobConfiguration, deployment, **variables)
    manifest: dict[str, Any] = configuration.job_manifest
    assert SIGN_IN not in str(manifest)
    # Both are in Prefect's own default, at this place; Kubernetes leaves them out of account.
    checked = manifest | {"metadata": manifest["metadata"] | {"name": "checked"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(without_unknown(checked)))
    done = subprocess.run(
        [BIN / "kubernetes-validate", "--strict", "--quiet", folder / "job.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return manifest


def without_unknown(manifest: dict[str, Any]) -> dict[str, Any]:
    pod = {key: value for key, value in manifest["spec"]["template"]["spec"].items() if key not in ("parallelism", "completions")}
    return manifest | {"spec": manifest["spec"] | {"template": manifest["spec"]["template"] | {"spec": pod}}}


def test_a_container_is_given_what_compose_gives_the_worker(docker_pool: Path) -> None:
    made = container("reelnest-train/nightly")
    host, worker = made["host_config"], COMPOSE["services"]["worker"]
    checkout = str(docker_pool)
    assert made["image"] == worker["image"]
    assert made["command"] == "python -m tasks.process.contained prefect flow-run execute"
    assert made["user"] == f"{os.getuid()}:{os.getgid()}"
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (True, worker["cap_drop"], worker["security_opt"])
    assert (host["ShmSize"], host["OomScoreAdj"]) == (2 * 1024**3, worker["oom_score_adj"])
    assert list(host["Tmpfs"]) == [temporary.partition(":")[0] for temporary in worker["tmpfs"]]
    assert set(host["Binds"]) == {
        f"{checkout}:{checkout}",
        "reelnest_cache:/cache",
        *(f"{checkout}/docker/secrets/{name}:/run/secrets/{name}:ro" for name in worker["secrets"]),
    }
    # Of the other secrets, which lie in the checkout, it sees none.
    assert host["Mounts"] == [{"Type": "tmpfs", "Target": f"{checkout}/docker/secrets"}]
    assert "DeviceRequests" not in host or host["DeviceRequests"] == []
    assert "Memory" not in host
    environment = made["environment"]
    defaults = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in worker["environment"].items()}
    assert {name: environment.get(name) for name in defaults} == defaults
    assert environment["PYTHONPATH"] == f"{checkout}/src:{checkout}"  # the library, and tasks.process.contained


@pytest.mark.slow
def test_a_container_that_is_stopped_ends_its_stage_and_the_run_goes_on_later(
    docker_pool: Path, child_environment: dict[str, str], tmp_path: Path
) -> None:
    """The container's command with its environment, as a process; no server here asks for the secrets."""
    (docker_pool / "behaviour.txt").write_text("validate hang\n")
    for command in ("add .", "-c user.name=t -c user.email=t@t commit --quiet --message=Hang"):
        subprocess.run(["git", *command.split()], cwd=docker_pool, check=True)
    run, configuration = as_the_worker_sees_it(DockerWorkerJobConfiguration, "reelnest-train/by-hand")
    environment = {name: text for name, text in configuration.env.items() if not name.endswith("_FILE")} | {
        "HOME": str(tmp_path),
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_URL": child_environment["PREFECT_API_URL"],
        "PYTHONPATH": f"{configuration.env['PYTHONPATH']}{os.pathsep}{ROOT / 'src'}",  # the test's checkout has no library of its own
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    with subprocess.Popen(configuration.command.split(), cwd=tmp_path, env=environment) as container:
        wait_until(lambda: any(docker_pool.glob("work/runs/*/worker-ready")))
        container.terminate()
        assert container.wait(60) == 0
    wait_until(lambda: not running_in(docker_pool))
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        client.delete_flow_run(run)
    assert state is not None
    assert state.name == "AwaitingRetry"


def running_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.2)


def test_a_container_gets_gpus_memory_and_cpus_that_a_person_asked_for(docker_pool: Path) -> None:
    cuda = "reelnest-worker:0.1.0-cuda"
    made = container(
        "reelnest-train/by-hand", image=cuda, device_requests=ALL_GPUS, shm_size="16g", mem_limit="64g", cpuset_cpus="0-7", env={"X": "1"}
    )
    host = made["host_config"]
    assert made["image"] == cuda
    assert [(found["Count"], found["Capabilities"]) for found in host["DeviceRequests"]] == [(-1, [["gpu"]])]
    assert (host["ShmSize"], host["Memory"], host["MemorySwap"]) == (16 * 1024**3, 64 * 1024**3, 64 * 1024**3)
    assert host["CpusetCpus"] == "0-7"
    assert (made["environment"]["X"], made["environment"][HEARTBEAT]) == ("1", "30")


@pytest.mark.parametrize(
    "wrong", [{"device_requests": 1}, {"device_requests": [{"count": -1}]}, {"shm_size": "much"}, {"cpuset_cpus": "all"}, {"env": "X=1"}]
)
def test_the_server_refuses_a_variable_that_docker_could_not_use(docker_pool: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(PrefectHTTPStatusError, match="Validation failed for field"):
        container("reelnest-train/by-hand", **wrong)


def test_deployments_start_where_they_were_deployed_from(docker_pool: Path) -> None:
    with get_client(sync_client=True) as client:
        deployments = client.read_deployments()
    ours = [found for found in deployments if found.work_pool_name == WORK_POOL]
    assert len(ours) == len(yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"])
    for found in ours:
        assert found.pull_steps in (None, [{"prefect.deployments.steps.set_working_directory": {"directory": str(docker_pool)}}])
        assert found.path in (None, str(docker_pool))


def test_a_pool_of_another_type_is_left_and_named(
    docker_pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(docker_pool)
    assert deploy.main(["--pool", "process"]) == 1
    told = capsys.readouterr().err
    assert "has type docker, not process" in told
    assert "prefect work-pool delete reelnest" in told
    with get_client(sync_client=True) as client:
        assert client.read_work_pool(WORK_POOL).type == "docker"
    for asked in (None, "docker"):
        assert work_pools.keep(asked, docker_pool) == "work pool 'reelnest': exists, type docker, not changed"


def test_a_job_has_gpus_shared_memory_and_the_checkout_under_the_restricted_standard(kubernetes_pool: Path, tmp_path: Path) -> None:
    made = job("reelnest-train/nightly", tmp_path)
    pod = made["spec"]["template"]["spec"]
    (run,) = pod["containers"]
    (worker,) = [
        document["spec"]["template"]["spec"]
        for document in yaml.safe_load_all((ROOT / "docker" / "kubernetes" / "worker.yaml").read_text())
        if document["kind"] == "Deployment"
    ]
    (theirs,) = worker["containers"]
    assert run["args"] == ["prefect", "flow-run", "execute"]
    assert run["resources"] == {
        "requests": theirs["resources"]["requests"],
        "limits": {"memory": theirs["resources"]["limits"]["memory"], "nvidia.com/gpu": 1},
    }
    assert pod["volumes"] == [volume for volume in worker["volumes"] if volume["name"] != "cache"]
    places = {mount["name"]: mount["mountPath"] for mount in theirs["volumeMounts"] if mount["name"] != "cache"}
    assert {mount["name"]: mount["mountPath"] for mount in run["volumeMounts"]} == places | {"project": str(kubernetes_pool)}
    for key in ("securityContext", "automountServiceAccountToken", "enableServiceLinks"):
        assert pod[key] == worker[key]
    assert run["securityContext"] == theirs["securityContext"]
    environment = {variable["name"]: variable for variable in run["env"]}
    assert len(environment) == len(run["env"])
    expected = {variable["name"]: variable for variable in theirs["env"] if variable["name"] != "REPOSITORY"}
    assert {name: environment[name] for name in expected} == expected
    assert environment[HEARTBEAT]["value"] == "30"
    assert environment["HF_HOME"]["value"].startswith(f"{kubernetes_pool}/")  # what is downloaded outlives the job
    kustomization = yaml.safe_load((ROOT / "docker" / "kubernetes" / "kustomization.yaml").read_text())
    (image,) = [f"{found['newName']}:{found['newTag']}" for found in kustomization["images"] if found["name"] == "reelnest-worker"]
    assert run["image"] == image


def test_what_only_looks_occupies_no_gpu_and_a_training_as_many_as_asked_for(kubernetes_pool: Path, tmp_path: Path) -> None:
    def limits(deployment: str, **variables: Any) -> dict[str, Any]:
        (run,) = job(deployment, tmp_path, **variables)["spec"]["template"]["spec"]["containers"]
        found: dict[str, Any] = run["resources"]["limits"]
        return found

    assert limits("reelnest-look-for-data/look-for-data") == {"memory": "4Gi", "nvidia.com/gpu": 0}
    assert limits("reelnest-train/by-hand", gpus=4, memory_limit="96Gi") == {"memory": "96Gi", "nvidia.com/gpu": 4}
    with pytest.raises(PrefectHTTPStatusError, match="Validation failed for field"):
        limits("reelnest-train/by-hand", gpus="two")


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_each_variable_is_used_and_says_what_it_is(kind: str) -> None:
    template = yaml.safe_load((ROOT / "docker" / "pools" / f"{kind}.json").read_text())
    used = str(template["job_configuration"])
    for name, variable in template["variables"]["properties"].items():
        assert variable["title"]
        assert f"{{{{ {name} }}}}" in used or name == "env"  # which Prefect merges
