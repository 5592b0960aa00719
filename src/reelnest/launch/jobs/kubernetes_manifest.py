"""The manifest of a stage's job: the project's template with the command, the number of pods and the settings of the launch."""

import math
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from reelnest.errors import ConfigError
from reelnest.launch.jobs.job import MARKS, Job
from reelnest.settings import Kubernetes
from reelnest.yaml_files import YAMLError, load_yaml, yaml_problem

STOP_SECONDS = 30
"""Added to the grace period of the processes: for their launcher, and for the pods to wait for each other."""
INTERRUPTED_STATUS = os.EX_TEMPFAIL
"""The exit status of a pod whose job should be started again."""
ATTEMPT = "REELNEST_ATTEMPT"
POD_IP = "REELNEST_POD_IP"
TRACKING_URI = "MLFLOW_TRACKING_URI"
PASSED = ("ACCELERATE_USE_CPU", TRACKING_URI, "OMP_NUM_THREADS", "PYTHONPATH", "WANDB_MODE")
"""Variables of the environment in which a run starts that its pods get, beside REELNEST_*. Others are in the template."""
NOT_PASSED = (MARKS, "REELNEST_API_KEY")
"""Not these: the marks are for processes of this machine, and the key of the search server is a secret. Nor an address with a password."""


def manifest(job: Job, settings: Kubernetes, attempt: int) -> dict[str, Any]:
    """Returns the manifest of one attempt of a job. Raises ConfigError if the template does not fit."""
    spec = job.spec
    path = Path(spec.root) / settings.template
    made = read_template(path)
    made["metadata"] = {**(made.get("metadata") or {}), "name": spec.name}
    made["metadata"].pop("generateName", None)
    annotations = {**(made["metadata"].get("annotations") or {}), "reelnest/checkout": spec.root}
    labels = {**(made["metadata"].get("labels") or {}), "app.kubernetes.io/managed-by": "reelnest"}
    made["metadata"] |= {"annotations": annotations, "labels": labels}
    # One pod each, all at once; the follower starts the job again, because all pods have to start together.
    made["spec"] |= {"completions": spec.nodes, "parallelism": spec.nodes, "completionMode": "Indexed", "backoffLimit": 0}
    pod = made["spec"]["template"]["spec"]
    pod |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": math.ceil(spec.grace_seconds) + STOP_SECONDS}
    container = pod["containers"][0]
    if not _has_checkout(pod, container, PurePosixPath(spec.root)):
        raise ConfigError(
            f"{path}: no shared volume is mounted at the checkout, {spec.root}, or above it. Add one to volumes, and its mountPath to"
            " volumeMounts."
        )
    container["args"] = [spec.python, "-m", "reelnest.launch.jobs.kubernetes_pod", str(job.folder)]
    container["workingDir"] = spec.root
    if settings.image is not None:
        container["image"] = settings.image
    container["env"] = _environment(container.get("env") or [], attempt, path)
    container["resources"] = _resources(container.get("resources") or {}, settings)
    return made


def read_template(path: Path) -> dict[str, Any]:
    """Reads a template. Raises ConfigError if it is not the manifest of a job with a container."""
    try:
        contents = load_yaml(path.read_text(encoding="utf-8"))
        is_job = contents["kind"] == "Job" and isinstance(contents["spec"]["template"]["spec"]["containers"][0], dict)
    except FileNotFoundError:
        raise ConfigError(f"{path} (launch.kubernetes.template): no such file.") from None
    except YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML: {yaml_problem(error)}.") from error
    except (KeyError, TypeError, IndexError):
        is_job = False
    if not is_job:
        raise ConfigError(f"{path}: expected the manifest of a Job (batch/v1) with a container in spec.template.spec.containers.")
    return dict(contents)


def _has_checkout(pod: Mapping[str, Any], container: Mapping[str, Any], root: PurePosixPath) -> bool:
    """Returns whether the checkout is on a volume that is not the pod's own."""
    mounts = [mount for mount in container.get("volumeMounts") or [] if root.is_relative_to(str(mount["mountPath"]))]
    name = max(mounts, key=lambda mount: len(str(mount["mountPath"])), default={"name": None})["name"]
    return any(volume["name"] == name and "emptyDir" not in volume for volume in pod.get("volumes") or [])


def _environment(variables: list[Mapping[str, Any]], attempt: int, path: Path) -> list[Mapping[str, Any]]:
    """Returns the container's variables: those of the template, then those of the launch."""
    passed = {name for name in os.environ if name not in NOT_PASSED and (name.startswith("REELNEST_") or name in PASSED)}
    if urlsplit(os.environ.get(TRACKING_URI, "")).password is not None:
        passed.discard(TRACKING_URI)
        if TRACKING_URI not in {variable["name"] for variable in variables}:
            raise ConfigError(
                f"{TRACKING_URI} contains a password, which everybody who may read jobs would see in the job. Put the variable into the"
                f" container of {path}, with its value from a Secret (valueFrom: secretKeyRef)."
            )
    ours: list[Mapping[str, Any]] = [
        *({"name": name, "value": os.environ[name]} for name in sorted(passed)),
        {"name": ATTEMPT, "value": str(attempt)},
        {"name": POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    names = {variable["name"] for variable in ours}
    return [*(variable for variable in variables if variable["name"] not in names), *ours]


def _resources(resources: Mapping[str, Any], settings: Kubernetes) -> dict[str, Any]:
    """Returns the container's resources, with those of the settings instead of the template's."""
    requests, limits = dict(resources.get("requests") or {}), dict(resources.get("limits") or {})
    if settings.gpus is not None:
        limits["nvidia.com/gpu"] = str(settings.gpus)
        requests.pop("nvidia.com/gpu", None)
    if settings.cpu is not None:
        requests["cpu"] = str(settings.cpu)
    if settings.memory is not None:
        requests["memory"] = limits["memory"] = settings.memory
    return {**resources, "requests": requests, "limits": limits}
