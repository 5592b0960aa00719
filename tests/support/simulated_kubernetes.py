"""The part of Kubernetes that launches use, on this machine: its API, the Job controller, and nodes that run containers as processes.

It checks manifests against Kubernetes' schemas (kubernetes-validate). It has no images, volumes, networks or limits: all pods share this
machine's files.
"""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import psutil

from reelnest.launch.jobs.kubernetes_manifest import PASSED
from tests.support.simulated_kubernetes_api import Api, Refused

VERSION = "1.34"
MARK = "SIMULATED_POD"
TICK_SECONDS = 0.1
NODES = 4
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass
class Pod:
    """A pod and its process."""

    name: str
    job: str
    index: int
    spec: dict[str, Any]
    status: dict[str, Any] = field(default_factory=lambda: {"phase": "Pending"})
    process: subprocess.Popen[bytes] | None = None
    killed_at: float | None = None
    """When its grace period ends, once it is deleted."""
    is_lost: bool = False
    """Whether its node has disappeared."""

    @property
    def is_active(self) -> bool:
        return self.status["phase"] in ("Pending", "Running")

    def content(self) -> dict[str, Any]:
        return {
            "metadata": {"name": self.name, "labels": {"job-name": self.job}},
            "spec": self.spec,
            "status": self.status,
        }


class Cluster:
    """A running Kubernetes. `environment` makes its clients use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, Pod] = {}
        self.created: list[str] = []
        """The names of all jobs that were created, in order."""
        self.room = NODES
        """How many pods can run at once."""
        self.api = Api(folder, self._respond)
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._controller = threading.Thread(target=self._control)
        self.environment = {"KUBECONFIG": str(folder / "kubeconfig")}

    def start(self) -> None:
        """Starts everything."""
        self.api.start()
        self.api.change_token()
        self._controller.start()

    def stop(self) -> None:
        """Stops everything, pods included."""
        self._stopped.set()
        self._controller.join()
        self.api.kill()
        for pod in self.pods.values():
            _kill(pod)

    def running(self) -> list[Pod]:
        """The pods that run, by index."""
        with self._lock:
            return sorted((pod for pod in self.pods.values() if pod.status["phase"] == "Running"), key=lambda pod: pod.index)

    def evict(self, pod: Pod, reason: str = "EvictionByEvictionAPI") -> None:
        """Evicts a pod, as a drained node or a preemption by the scheduler does."""
        with self._lock:
            pod.status.setdefault("conditions", []).append(_condition("DisruptionTarget", reason))
            self._delete(pod, None)

    def lose_node(self, pod: Pod) -> None:
        """Kills a pod's node, as a power failure does: the API shows it as running."""
        with self._lock:
            pod.is_lost = True
            _kill(pod)

    def kill_container(self, pod: Pod, reason: str = "OOMKilled") -> None:
        """Kills the container of a pod, as the kernel does when its memory is used up."""
        with self._lock:
            pod.status["reason_of_end"] = reason
            _kill(pod)

    def delete(self, job: str) -> None:
        """Deletes a job and its pods, as `kubectl delete job` does."""
        with self._lock:
            self.jobs.pop(job, None)
            for pod in self._pods_of(job):
                self._delete(pod, None)

    def end_time(self, job: str) -> None:
        """Ends a job as if its activeDeadlineSeconds had passed."""
        with self._lock:
            self.jobs[job]["failing"] = "DeadlineExceeded"

    def is_idle(self) -> bool:
        """Whether neither a pod nor a process of one runs."""
        return not self.running() and not self.processes()

    def processes(self) -> list[psutil.Process]:
        """The processes of all pods."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK, "").startswith(str(self.folder)) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _respond(self, method: str, route: Mapping[str, str | None], query: Mapping[str, str], body: Any) -> Any:
        kind, name = route["kind"], route["name"]
        with self._lock:
            if (method, kind, name) == ("POST", "jobs", None):
                return self._create(body)
            if name is None:
                job = query["labelSelector"].removeprefix("job-name=")
                return {"items": [pod.content() for pod in self._pods_of(job)]}
            objects: Mapping[str, Any] = self.jobs if kind == "jobs" else self.pods
            if name not in objects:
                raise Refused(404, f'{kind} "{name}" not found')
            if route["log"]:
                return (self.folder / f"{name}.log").read_text()
            found = objects[name]
            if method == "DELETE" and kind == "jobs":
                self.delete(name)
            elif method == "DELETE":
                self._delete(found, int(query["gracePeriodSeconds"]))
            return found.content() if isinstance(found, Pod) else found

    def _create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        name = manifest["metadata"]["name"]
        try:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(422, f'Job "{name}" is invalid: {error.message}') from error
        if not NAME.fullmatch(name):
            raise Refused(422, f'Job "{name}" is invalid: metadata.name')
        if name in self.jobs:
            raise Refused(409, f'jobs.batch "{name}" already exists')
        self.jobs[name] = {**manifest, "status": {}}
        self.created.append(name)
        return self.jobs[name]

    def _pods_of(self, job: str) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.job == job]

    def _delete(self, pod: Pod, grace_seconds: int | None) -> None:
        if grace_seconds == 0:
            _kill(pod)
            self.pods.pop(pod.name, None)
            return
        grace = pod.spec["terminationGracePeriodSeconds"] if grace_seconds is None else grace_seconds
        if pod.killed_at is None and pod.process is not None and not pod.is_lost:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pod.process.pid, signal.SIGTERM)
        pod.killed_at = min(pod.killed_at or float("inf"), time.monotonic() + grace)

    def _control(self) -> None:
        while not self._stopped.wait(TICK_SECONDS):
            with self._lock:
                for pod in list(self.pods.values()):
                    self._look_at_pod(pod)
                for name, job in list(self.jobs.items()):
                    self._look_at_job(name, job)

    def _look_at_pod(self, pod: Pod) -> None:
        if pod.process is None and pod.killed_at is None and len(self.running()) < self.room:
            self._run(pod)
        elif pod.process is None and pod.killed_at is None:
            message = f"0/{NODES} nodes are available: {NODES} Insufficient nvidia.com/gpu."
            pod.status["conditions"] = [{**_condition("PodScheduled", "Unschedulable", message), "status": "False"}]
        if pod.is_lost:
            return
        status = None if pod.process is None else pod.process.poll()
        if status is not None and pod.is_active:
            _kill(pod)  # the rest of the container
            code = 128 - status if status < 0 else status
            ended = {"exitCode": code, "reason": pod.status.pop("reason_of_end", "Error" if code else "Completed")}
            pod.status |= {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"state": {"terminated": ended}}]}
        if pod.killed_at is not None and (not pod.is_active or pod.process is None or time.monotonic() > pod.killed_at):
            _kill(pod)
            self.pods.pop(pod.name)

    def _look_at_job(self, name: str, job: dict[str, Any]) -> None:
        if any(condition["type"] in ("Complete", "Failed") for condition in job["status"].get("conditions", [])):
            return
        pods = self._pods_of(name)
        reason = self._failure(job, pods)
        if reason is None and not pods and "failing" not in job:
            for index in range(job["spec"]["completions"]):
                pod = Pod(f"{name}-{index}-{secrets.token_hex(3)}", name, index, job["spec"]["template"]["spec"])
                self.pods[pod.name] = pod
            return
        if reason is not None:
            job.setdefault("failing", reason)
            job["status"].setdefault("conditions", [_condition("FailureTarget", reason)])
            for pod in pods:
                if pod.is_active and pod.killed_at is None:
                    self._delete(pod, None)
        if "failing" in job and not any(pod.is_active for pod in pods):
            job["status"]["conditions"].append(_condition("Failed", job["failing"]))
        elif pods and all(pod.status["phase"] == "Succeeded" for pod in pods):
            job["status"]["conditions"] = [_condition("SuccessCriteriaMet", ""), _condition("Complete", "")]

    @staticmethod
    def _failure(job: Mapping[str, Any], pods: list[Pod]) -> str | None:
        if "failing" in job:
            return str(job["failing"])
        is_failed = any(pod.status["phase"] == "Failed" or (pod.killed_at is not None and pod.is_active) for pod in pods)
        return "BackoffLimitExceeded" if is_failed else None

    def _run(self, pod: Pod) -> None:
        container = pod.spec["containers"][0]
        image = {name: value for name, value in os.environ.items() if name not in PASSED and not name.startswith(("REELNEST_", "KUBE"))}
        given = {variable["name"]: _value(variable) for variable in container["env"]}
        variables = {**image, **given, "JOB_COMPLETION_INDEX": str(pod.index), MARK: f"{self.folder}/{pod.name}"}
        with (self.folder / f"{pod.name}.log").open("wb") as log:
            pod.process = subprocess.Popen(
                [*container.get("command", []), *container["args"]],
                cwd=container["workingDir"],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        pod.status = {"phase": "Running"}


@contextmanager
def simulated_cluster() -> Iterator[Cluster]:
    """A Kubernetes for the block."""
    with TemporaryDirectory(prefix="kubernetes-") as name:
        cluster = Cluster(Path(name))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _condition(kind: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": datetime.now(UTC).isoformat()}


def _value(variable: Mapping[str, Any]) -> str:
    if "value" in variable:
        return str(variable["value"])
    source = variable["valueFrom"]
    return "127.0.0.1" if source.get("fieldRef") == {"fieldPath": "status.podIP"} else "a secret"


def _kill(pod: Pod) -> None:
    if pod.process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pod.process.pid, signal.SIGKILL)
        pod.process.wait(30)
