"""What `launch.kubernetes` and the template become in the manifest of a job, and which responses of the API mean what."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from reelnest.errors import ConfigError
from reelnest.launch.command import launch_command
from reelnest.launch.jobs import kubernetes_api
from reelnest.launch.jobs.job import MARKS, Job, JobSpec
from reelnest.launch.jobs.kubernetes import KubernetesScheduler
from reelnest.launch.jobs.kubernetes_api import Conflict, KubernetesApi
from reelnest.launch.jobs.kubernetes_manifest import manifest
from reelnest.launch.jobs.scheduler import JobState, Phase, SchedulerUnreachable
from reelnest.settings import Kubernetes, Params, load_params

ROOT = Path(__file__).parents[3]
RUNNING = {"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Running"}}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout on a volume that the template mounts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "kubernetes").mkdir(parents=True)
    text = (ROOT / "configs" / "kubernetes" / "job.yaml").read_text()
    (tmp_path / "configs" / "kubernetes" / "job.yaml").write_text(text.replace("mountPath: /project}", f"mountPath: {tmp_path.parent}}}"))
    return tmp_path


def specification(**settings: Any) -> JobSpec:
    values = load_params(ROOT / "params.yaml").model_dump(by_alias=True)
    values["launch"] = {"backend": "kubernetes", "config": "multi-node", "grace_seconds": 30.5, "kubernetes": settings}
    command, _ = launch_command(Params.model_validate(values), ROOT / "params.yaml", "reelnest.stages.train")
    return JobSpec.from_json(command[-1])


def made(checkout: Path, **settings: Any) -> dict[str, Any]:
    job = Job(checkout / "job")
    job.begin(specification(**settings))
    return manifest(job, Kubernetes.model_validate(job.spec.settings), attempt=2)


def container_of(manifest: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize("version", ["1.25", "1.31", "1.34"])
def test_the_manifest_follows_the_schemas_of_kubernetes(version: str, checkout: Path) -> None:
    kubernetes_validate.validate(made(checkout, gpus=8, cpu=16, memory="64Gi", image="mine:1"), version, strict=True)


def test_all_pods_run_once_and_get_time_to_save(checkout: Path) -> None:
    job = made(checkout)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"], spec["backoffLimit"]) == (2, 2, "Indexed", 0)
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 61)
    container = container_of(job)
    assert container["args"] == [sys.executable, "-m", "reelnest.launch.jobs.kubernetes_pod", str(checkout / "job")]
    assert container["workingDir"] == str(checkout)
    assert job["metadata"]["name"].startswith("reelnest-train-")
    assert job["metadata"]["labels"]["app"] == "reelnest"


def test_settings_replace_what_the_template_says(checkout: Path) -> None:
    template = yaml.safe_load((ROOT / "configs" / "kubernetes" / "job.yaml").read_text())
    assert container_of(made(checkout))["image"] == container_of(template)["image"]
    assert container_of(made(checkout))["resources"] == container_of(template)["resources"]
    container = container_of(made(checkout, image="mine:1", gpus=8, cpu="500m", memory="64Gi"))
    assert container["image"] == "mine:1"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8", "memory": "64Gi"}
    assert container["resources"]["requests"] == {"cpu": "500m", "memory": "64Gi"}


def test_a_pod_gets_the_variables_of_the_run_but_no_secret_and_no_mark(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MARKS, "REELNEST_API_KEY", "REELNEST_PARENT_RUN", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "HOME"):
        monkeypatch.setenv(name, "of the run")
    variables = {variable["name"]: variable for variable in container_of(made(checkout))["env"]}
    assert variables["REELNEST_PARENT_RUN"]["value"] == variables["MLFLOW_TRACKING_URI"]["value"] == "of the run"
    assert MARKS not in variables
    assert "REELNEST_API_KEY" not in variables
    assert variables["HOME"]["value"] == "/tmp"  # noqa: S108 (a path of the test)
    assert "valueFrom" in variables["MLFLOW_TRACKING_PASSWORD"]
    assert variables["REELNEST_ATTEMPT"]["value"] == "2"


def test_an_address_with_a_password_stays_out_of_the_manifest(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://team:s3cr3t@mlflow.example")
    job = made(checkout)
    assert "s3cr3t" not in str(job)
    (address,) = [variable for variable in container_of(job)["env"] if variable["name"] == "MLFLOW_TRACKING_URI"]
    assert address["value"] == "http://mlflow:5000"  # the template's
    path = checkout / "configs" / "kubernetes" / "job.yaml"
    path.write_text(path.read_text().replace("name: MLFLOW_TRACKING_URI,", "name: OTHER,"))
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI contains a password, .*job\.yaml, with its value from a Secret"):
        made(checkout)


def test_a_checkout_outside_of_all_volumes_is_refused(checkout: Path) -> None:
    path = checkout / "configs" / "kubernetes" / "job.yaml"
    path.write_text(path.read_text().replace(str(checkout.parent), "/elsewhere"))
    with pytest.raises(ConfigError, match=f"no shared volume is mounted at the checkout, {checkout}, or above it"):
        made(checkout)


@pytest.mark.parametrize(("text", "reason"), [("kind: Pod", "expected the manifest of a Job"), ("a: [", "not readable as YAML")])
def test_a_template_that_is_no_job_is_refused(text: str, reason: str, checkout: Path) -> None:
    (checkout / "configs" / "kubernetes" / "job.yaml").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        specification()


def test_another_template_makes_another_job(checkout: Path) -> None:
    first = specification()
    path = checkout / "configs" / "kubernetes" / "job.yaml"
    path.write_text(path.read_text().replace("24Gi", "32Gi"))
    assert specification().name == first.name
    assert specification().inputs != first.inputs


def api(monkeypatch: pytest.MonkeyPatch, *responses: httpx.Response | Exception) -> tuple[KubernetesApi, list[httpx.Request]]:
    """An API with these responses, and the requests to it."""
    remaining, requests = list(responses), []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        response = remaining.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    def connect(_context: str | None, namespace: str | None) -> tuple[httpx.Client, str]:
        return httpx.Client(base_url="https://cluster", transport=httpx.MockTransport(respond)), namespace or "default"

    monkeypatch.setattr(kubernetes_api, "connect", connect)
    return KubernetesApi(None, "mine"), requests


def refusal(status: int, message: str = "why") -> httpx.Response:
    return httpx.Response(status, json={"kind": "Status", "message": message})


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (httpx.ConnectError("refused"), SchedulerUnreachable),
        (httpx.ReadTimeout("slow"), SchedulerUnreachable),
        (refusal(500), SchedulerUnreachable),
        (refusal(503), SchedulerUnreachable),
        (refusal(429), SchedulerUnreachable),
        (httpx.Response(502, text="<html>bad gateway</html>"), SchedulerUnreachable),
        (refusal(401), ConfigError),
        (refusal(403), ConfigError),
        (refusal(422), ConfigError),
        (refusal(404, 'namespaces "mine" not found'), ConfigError),
        (refusal(409), Conflict),
    ],
)
def test_a_response_means(response: httpx.Response | Exception, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = api(monkeypatch, response)
    with pytest.raises(error):
        found.create_job({})


def test_credentials_are_read_again_when_they_have_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    found, requests = api(monkeypatch, httpx.Response(200, json={"a": 1}), refusal(401), httpx.Response(200, json={"a": 2}), refusal(404))
    assert [found.job("j"), found.job("j"), found.job("j")] == [{"a": 1}, {"a": 2}, None]
    assert requests[0].url.path == "/apis/batch/v1/namespaces/mine/jobs/j"


def state_of(monkeypatch: pytest.MonkeyPatch, job: dict[str, Any] | None, *pods: dict[str, Any]) -> JobState:
    found, _ = api(monkeypatch, refusal(404) if job is None else httpx.Response(200, json=job), httpx.Response(200, json={"items": pods}))
    return KubernetesScheduler(Kubernetes(), found).state("j")


def ended(kind: str, reason: str = "") -> dict[str, Any]:
    return {"spec": {"completions": 1}, "status": {"conditions": [{"type": kind, "status": "True", "reason": reason}]}}


def stopped(code: int, reason: str = "Error") -> dict[str, Any]:
    container = {"state": {"terminated": {"exitCode": code, "reason": reason}}}
    return {"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Failed", "containerStatuses": [container]}}


def waiting(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Pending", **status}}


@pytest.mark.parametrize(
    ("job", "pods", "phase", "text"),
    [
        ({"spec": {"completions": 1}}, [RUNNING], Phase.RUNNING, "RUNNING"),
        ({"spec": {"completions": 2}}, [RUNNING], Phase.WAITING, "its pods are created"),
        ({"spec": {"completions": 1, "suspend": True}}, [], Phase.WAITING, "suspended"),
        (
            {"spec": {"completions": 1}},
            [waiting(containerStatuses=[{"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}])],
            Phase.WAITING,
            "ErrImagePull: not found",
        ),
        (
            {"spec": {"completions": 1}},
            [waiting(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}])],
            Phase.WAITING,
            "0/3 nodes",
        ),
        (ended("Complete"), [], Phase.ENDED, "COMPLETED"),
        (ended("Failed", "BackoffLimitExceeded"), [stopped(1)], Phase.ENDED, "FAILED"),
        (ended("Failed", "BackoffLimitExceeded"), [stopped(137, "OOMKilled")], Phase.ENDED, "OUT_OF_MEMORY"),
        (ended("Failed", "DeadlineExceeded"), [], Phase.ENDED, "TIMEOUT"),
        (ended("FailureTarget"), [RUNNING], Phase.RUNNING, "ENDING"),
        (None, [RUNNING], Phase.RUNNING, "ENDING"),
        (None, [], Phase.ENDED, "CANCELLED"),
    ],
)
def test_the_state_of_a_job_is_that_of_its_conditions_and_pods(
    job: dict[str, Any] | None, pods: list[dict[str, Any]], phase: Phase, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(monkeypatch, job, *pods)
    assert state.phase == phase
    assert text in (state.name, state.reason)


def test_a_kubeconfig_gives_the_address_the_credentials_and_the_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"#!{sys.executable}\nprint({json.dumps(json.dumps(exec_credential()))})\n"
    (tmp_path / "plugin").write_text(script)
    (tmp_path / "plugin").chmod(0o755)
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=k"]
    subprocess.run([*certificate, "-keyout", "key.pem", "-out", "ca.pem"], cwd=tmp_path, check=True, capture_output=True)
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(tmp_path / "plugin"), "interactiveMode": "Never"}
    contents = {
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "plugin", "namespace": "team"}},
            {"name": "there", "context": {"cluster": "c", "user": "certificate"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority": str(tmp_path / "ca.pem")}}],
        "users": [
            {"name": "plugin", "user": {"exec": plugin}},
            {"name": "certificate", "user": {"client-certificate": str(tmp_path / "ca.pem"), "client-key": str(tmp_path / "key.pem")}},
        ],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(contents))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    client, namespace = kubernetes_api.connect(None, None)
    assert (str(client.base_url), namespace, client.headers["Authorization"]) == ("https://10.0.0.1:6443", "team", "Bearer of-the-plugin")
    client, namespace = kubernetes_api.connect("there", None)
    assert (namespace, client.headers.get("Authorization")) == ("default", None)
    assert kubernetes_api.connect("there", "mine")[1] == "mine"


def exec_credential() -> dict[str, Any]:
    return {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "of-the-plugin"}}


def test_without_a_kubeconfig_outside_of_a_cluster_the_error_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="Set KUBECONFIG"):
        kubernetes_api.connect(None, None)
