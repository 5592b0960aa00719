"""Kubernetes through its API: an indexed Job with one pod a machine, which is described again by its name.

Interrupted jobs are started again by the follower, not by Kubernetes, because all pods of a training have to start together.
"""

import logging
import math
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from reelnest.launch.jobs.job import Job, interrupted_too_often
from reelnest.launch.jobs.kubernetes_api import Conflict, KubernetesApi
from reelnest.launch.jobs.kubernetes_manifest import INTERRUPTED_STATUS, STOP_SECONDS, manifest
from reelnest.launch.jobs.scheduler import JobState, Phase, SchedulerUnreachable
from reelnest.settings import Kubernetes

KILL_SECONDS = 1
"""Between SIGTERM and SIGKILL for a job that gets no chance to save. 0 would remove pods whose processes may still run."""
LOST_SECONDS = 20
"""A pod that is still there this long after its grace period is on a node that has disappeared."""
POLL_SECONDS = 1.0
GONE_SECONDS = 20.0
"""How long one call waits for pods to end."""
LOG_LINES = 20
ENDED_FROM_OUTSIDE = (0, INTERRUPTED_STATUS, 128 + signal.SIGTERM)
"""Exit statuses of a pod that did not fail by itself."""

log = logging.getLogger(__name__)


class KubernetesScheduler:
    """A namespace of a Kubernetes cluster."""

    title = "Kubernetes"
    memory_setting = "launch.kubernetes.memory"

    def __init__(self, settings: Kubernetes, api: KubernetesApi | None = None) -> None:
        self._settings = settings
        self._api = api or KubernetesApi(settings.context, settings.namespace)
        self._ending: dict[str, float] = {}
        """When a job was first seen to end, by id."""
        self._restarting: set[str] = set()
        """The jobs that are removed to be created again."""

    def submit(self, job: Job) -> str:
        """Creates the job. An earlier one of the same name that has ended is removed first."""
        name = job.spec.name
        if self._api.job(name) is not None or self._api.pods(name):
            self._remove(name, job.spec.grace_seconds)
        with suppress(Conflict):  # an earlier request whose response was lost
            self._api.create_job(manifest(job, self._settings, _attempts(job)))
        self._restarting.discard(name)
        self._ending.pop(name, None)
        return name

    def release(self, _job_id: str) -> None:
        """Does nothing: the job is found by its name, so it may start before its id is recorded."""

    def find(self, name: str) -> str | None:
        """Returns the name if there is a job of it that has not ended."""
        return name if self.state(name).phase != Phase.ENDED else None

    def state(self, job_id: str) -> JobState:
        """Returns the state of the job, and what its pods wait for. A job has ended when its pods have."""
        described, pods = self._api.job(job_id), self._api.pods(job_id)
        active = [pod for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]
        name = _end_of(described)
        if described is not None and name is None:
            waiting = [reason for pod in active if (reason := _waits_for(pod)) is not None]
            if len(pods) < described["spec"]["completions"]:
                waiting.append("suspended" if described["spec"].get("suspend") else "its pods are created")
            return JobState(Phase.WAITING, "PENDING", waiting[0]) if waiting else JobState(Phase.RUNNING, "RUNNING")
        if active and not self._has_lost(job_id, active):
            return JobState(Phase.RUNNING, "ENDING")
        return JobState(Phase.ENDED, "OUT_OF_MEMORY" if any(map(_was_out_of_memory, pods)) else name or "CANCELLED")

    def stop(self, _job_id: str) -> None:
        """Does nothing: the pods see the request in the job's folder (`Job.request_stop`)."""

    def end(self, job_id: str) -> None:
        """Deletes the job, and its pods with hardly a grace period."""
        self._api.delete_job(job_id)
        since = self._ending.setdefault(job_id, time.monotonic())
        for pod in self._api.pods(job_id):
            self._api.delete_pod(pod["metadata"]["name"], 0 if time.monotonic() - since > LOST_SECONDS else KILL_SECONDS)

    def restart(self, job: Job, job_id: str) -> bool:
        """Creates the job again if a pod was evicted or preempted, a node was lost, or the job's time ended."""
        described, pods = self._api.job(job_id), self._api.pods(job_id)
        if job_id not in self._restarting:
            if described is None:
                return False
            if not _was_interrupted(described, pods):
                self._record(job, described, pods)
                return False
            attempts = _attempts(job)
            if attempts > self._settings.requeues:
                job.write_result(interrupted_too_often(self.title, job_id, attempts))
                return False
            log.info("Kubernetes job %s was interrupted; it is started again", job_id)
        self._restarting.add(job_id)
        self.submit(job)
        return True

    def _remove(self, name: str, grace_seconds: float) -> None:
        """Deletes a job and waits until its pods are gone. Raises SchedulerUnreachable to be called again if they are not gone yet."""
        self._api.delete_job(name)
        since = self._ending.setdefault(name, time.monotonic())
        deadline = time.monotonic() + GONE_SECONDS
        while pods := self._api.pods(name):
            if time.monotonic() - since > math.ceil(grace_seconds) + STOP_SECONDS + LOST_SECONDS:
                for pod in pods:
                    self._api.delete_pod(pod["metadata"]["name"], 0)
            if time.monotonic() > deadline:
                raise SchedulerUnreachable(f"Kubernetes: pods of job {name} have not ended yet.")
            time.sleep(POLL_SECONDS)

    def _has_lost(self, job_id: str, pods: Sequence[Mapping[str, Any]]) -> bool:
        """Returns whether the remaining pods of a job that is ending are on nodes that have disappeared."""
        since = self._ending.setdefault(job_id, time.monotonic())
        grace = max(pod["spec"].get("terminationGracePeriodSeconds") or 30 for pod in pods)
        return time.monotonic() - since > grace + LOST_SECONDS

    def _record(self, job: Job, described: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> None:
        """Writes what Kubernetes and the containers report about a failure into the job's folder."""
        lines = []
        container = described["spec"]["template"]["spec"]["containers"][0]["name"]  # a cluster may add others to the pods
        for pod in pods:
            name = pod["metadata"]["name"]
            lines += [f"{name}: {text}" for text in _messages(pod)]
            lines += [f"{name}: {line}" for line in (self._api.log(name, container, LOG_LINES) or "").splitlines()]
        job.messages.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _attempts(job: Job) -> int:
    """Returns how many attempts of a job there were whose pods started."""
    return len(list(job.folder.glob("attempt-*")))


def _end_of(described: Mapping[str, Any] | None) -> str | None:
    """Returns how a job ends or has ended; None while it does not, and without a job."""
    listed = ((described or {}).get("status") or {}).get("conditions") or []
    conditions = {condition["type"]: condition for condition in listed if condition["status"] == "True"}
    if "Complete" in conditions or "SuccessCriteriaMet" in conditions:
        return "COMPLETED"
    failed = conditions.get("Failed") or conditions.get("FailureTarget")
    if failed is not None:
        return "TIMEOUT" if failed.get("reason") == "DeadlineExceeded" else "FAILED"
    return None


def _was_interrupted(described: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether no container failed by itself. The pods that were ended, and those that ran with them, may be gone."""
    statuses = [ended.get("exitCode") for pod in pods for ended in _terminated(pod)]
    is_disrupted = any(condition["type"] == "DisruptionTarget" for pod in pods for condition in pod["status"].get("conditions") or [])
    return _end_of(described) == "TIMEOUT" or is_disrupted or all(status in ENDED_FROM_OUTSIDE for status in statuses)


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(pod["status"].get("initContainerStatuses") or []), *(pod["status"].get("containerStatuses") or [])]


def _terminated(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [container["state"]["terminated"] for container in _containers(pod) if "terminated" in container.get("state", {})]


def _was_out_of_memory(pod: Mapping[str, Any]) -> bool:
    return any(ended.get("reason") == "OOMKilled" for ended in _terminated(pod))


def _waits_for(pod: Mapping[str, Any]) -> str | None:
    """Returns why a pod does not run yet; None if it runs."""
    if pod["status"].get("phase") == "Running":
        return None
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return ": ".join(filter(None, [waiting.get("reason"), waiting.get("message")]))
    for condition in pod["status"].get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or condition.get("reason"))
    return "its pods start"


def _messages(pod: Mapping[str, Any]) -> list[str]:
    texts = [pod["status"].get("message"), *(ended.get("message") for ended in _terminated(pod))]
    return [" ".join(text.split()) for text in texts if text]
