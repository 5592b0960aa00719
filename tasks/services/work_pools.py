"""The work pool of the deployments: runs are processes of the worker, containers, or Kubernetes jobs.

`docker/pools/` has the template of a container or job: image, GPUs, shared memory, volumes, environment. It is copied into the pool, where
people can change it in Prefect's UI.
"""

import json
import os
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from tasks.process.grace import stop_seconds
from tasks.process.runner import setting
from tasks.services.prefect_server import WORK_POOL

TYPES = ("process", "docker", "kubernetes")
SECRETS = "REELNEST_SECRETS"


class WorkPoolError(Exception):
    """The work pool has another type than the requested one. The text says what to do."""


def keep(requested: str | None, checkout: Path) -> str:
    """Creates the pool if there is none, with the requested type or `process`. An existing pool is not changed. Returns what to print."""
    new_type = requested or TYPES[0]
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type=new_type, base_job_template=job_template(new_type, checkout)))
            return f"work pool '{WORK_POOL}': created, type {new_type}"
        except ObjectAlreadyExists:
            present = client.read_work_pool(WORK_POOL).type
    if requested not in (None, present):
        raise WorkPoolError(
            f"The work pool '{WORK_POOL}' has type {present}, not {requested}, and was not changed. To change it, stop its workers, run"
            f" `prefect work-pool delete {WORK_POOL}` and deploy again."
        )
    return f"work pool '{WORK_POOL}': exists, type {present}, not changed"


def job_template(kind: str, checkout: Path) -> dict[str, Any]:
    """Returns the pool's base job template, with the checkout's path and owner and the folder of its secrets as defaults."""
    if kind == "process":
        from prefect.workers.process import ProcessWorker

        return ProcessWorker.get_default_base_job_template()
    template: dict[str, Any] = json.loads((checkout / "docker" / "pools" / f"{kind}.json").read_text(encoding="utf-8"))
    owner = checkout.stat()
    secrets = setting(SECRETS) or checkout / "docker" / "secrets"
    known: dict[str, str | int] = {
        "checkout": str(checkout),
        "user": f"{owner.st_uid}:{owner.st_gid}",
        "secrets": os.path.abspath(secrets),  # noqa: PTH100 (links stay as they are)
        "stop_seconds": stop_seconds(checkout),
    }
    for name, value in known.items():
        if name in template["variables"]["properties"]:
            template["variables"]["properties"][name]["default"] = value
    return template
