"""The environment's variables that go before `params.yaml` or stand beside it."""

import os
from typing import Literal, cast

from reelnest.settings.params import Params


def tracking_uri(params: Params) -> str:
    """MLflow's address: the environment's, so that one checkout can log to a team's server, or else the file's."""
    return os.environ.get("MLFLOW_TRACKING_URI") or params.tracking.uri


def flow_run() -> tuple[str, str | None] | None:
    """The id of the flow run that this process works for, and the address of its page; None where no flow started it."""
    flow_run_id = os.environ.get("REELNEST_FLOW_RUN_ID")
    return (flow_run_id, os.environ.get("REELNEST_FLOW_RUN_URL") or None) if flow_run_id else None


def wandb_mode() -> Literal["online", "offline", "disabled", "shared"]:
    """Weights & Biases' mode: the environment's, or else offline, so that nothing leaves this machine unasked."""
    return cast("Literal['online', 'offline', 'disabled', 'shared']", os.environ.get("WANDB_MODE", "offline"))
