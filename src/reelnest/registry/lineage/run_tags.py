"""The tags of a training's run that say where it came from."""

import os
from pathlib import Path

from reelnest.registry.lineage.checkout import read_checkout
from reelnest.settings import flow_run

COMMIT_TAG = "reelnest.git_commit"
FLOW_RUN_TAG = "reelnest.flow_run"
PARENT_TAG = "mlflow.parentRunId"
"""The tag by which MLflow's pages show a run below another."""


def origin_tags(root: Path) -> dict[str, str]:
    """Returns tags for a new run in the project at `root`: the commit and the Prefect flow run."""
    checkout, flow = read_checkout(root), flow_run()
    return ({COMMIT_TAG: checkout.name} if checkout else {}) | ({FLOW_RUN_TAG: flow[0]} if flow else {})


def parent_tags() -> dict[str, str]:
    """Returns the tag that makes this process's training a child of the run in REELNEST_PARENT_RUN, if it is set."""
    parent = os.environ.get("REELNEST_PARENT_RUN")
    return {PARENT_TAG: parent} if parent else {}
