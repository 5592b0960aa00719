"""Logs what a run used to the MLflow run of its training."""

import time
from collections.abc import Sequence

import mlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from reelnest.errors import RegistryError
from reelnest.launch.usage import Usage, total
from reelnest.registry.connection import connect
from reelnest.settings import Params


def log_usage(params: Params, run_id: str, stages: Sequence[Usage]) -> None:
    """Logs the time in the queue, the GPU hours and the cost of each stage, and their totals. Raises RegistryError."""
    connect(params)
    now = int(time.time() * 1000)
    values: dict[str, float] = {}
    for used in (*stages, total(stages)):
        values[f"usage/{used.stage}/queued_seconds"] = used.queued_seconds
        values[f"usage/{used.stage}/gpu_hours"] = used.gpu_hours
        if used.cost is not None:
            values[f"usage/{used.stage}/cost"] = used.cost
    try:
        mlflow.MlflowClient().log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in values.items()])
    except (MlflowException, OSError) as error:
        raise RegistryError(f"What the run used cannot be logged to MLflow: {error}") from error
