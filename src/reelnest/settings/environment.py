"""Environment variables that override or supplement `params.yaml`."""

import os
from typing import Literal, cast

from reelnest.settings.params import Params


def tracking_uri(params: Params) -> str:
    """Returns MLflow's address: MLFLOW_TRACKING_URI if set, otherwise `tracking.uri`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or params.tracking.uri


def flow_run() -> tuple[str, str | None] | None:
    """Returns the id of the flow run that started this process, and the URL of its page; None without a flow."""
    flow_run_id = os.environ.get("REELNEST_FLOW_RUN_ID")
    return (flow_run_id, os.environ.get("REELNEST_FLOW_RUN_URL") or None) if flow_run_id else None


def wandb_mode() -> Literal["online", "offline", "disabled", "shared"]:
    """Returns Weights & Biases' mode: WANDB_MODE if set, otherwise offline, so that nothing is uploaded by default."""
    return cast("Literal['online', 'offline', 'disabled', 'shared']", os.environ.get("WANDB_MODE", "offline"))
