"""The work pool: on what the deployments' runs run. As processes of the worker, in containers, or as Kubernetes jobs.

What a container or a job is like stands in `docker/pools/`: image, GPUs, shared memory, volumes, environment. The pool keeps it from then
on, where a person changes it in Prefect's pages.
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
    """The work pool is of another type than was asked for. The text says what to do."""


def keep(asked: str | None, checkout: Path) -> str:
    """Makes the pool where there is none, of the type asked for or else process; one that is there stays as it is. Says which it was."""
    made = asked or TYPES[0]
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type=made, base_job_template=job_template(made, checkout)))
            return f"work pool '{WORK_POOL}': made, of type {made}"
        except ObjectAlreadyExists:
            present = client.read_work_pool(WORK_POOL).type
    if asked not in (None, present):
        raise WorkPoolError(
            f"The work pool '{WORK_POOL}' is of type {present}, not {asked}, and was left as it is. To change it, stop its workers, run"
            f" `prefect work-pool delete {WORK_POOL}` and deploy again."
        )
    return f"work pool '{WORK_POOL}': is there, of type {present}, and stays as it is"


def job_template(kind: str, checkout: Path) -> dict[str, Any]:
    """The pool's base job template; where the checkout is, whose it is and where its secrets are stand in it as defaults."""
    if kind == "process":
        from prefect.workers.process import ProcessWorker

        return ProcessWorker.get_default_base_job_template()
    template: dict[str, Any] = json.loads((checkout / "docker" / "pools" / f"{kind}.json").read_text(encoding="utf-8"))
    owner = checkout.stat()
    secrets = setting(SECRETS) or checkout / "docker" / "secrets"
    known: dict[str, str | int] = {
        "checkout": str(checkout),
        "user": f"{owner.st_uid}:{owner.st_gid}",
        "secrets": os.path.abspath(secrets),  # noqa: PTH100
        "stop_seconds": stop_seconds(checkout),
    }
    for name, value in known.items():
        if name in template["variables"]["properties"]:
            template["variables"]["properties"][name]["default"] = value
    return template
