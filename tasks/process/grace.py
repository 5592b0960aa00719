"""How long a stage gets between SIGTERM and SIGKILL, and what follows from it. `launch.grace_seconds` of params.yaml decides."""

from pathlib import Path

from reelnest.settings import Launch
from reelnest.yaml_files import YAMLError, load_yaml

WORKER_SECONDS = 30
"""How long Prefect waits for the process of a flow run that it ends."""
REPORT_SECONDS = 60
"""Enough for the ends of runs to be reported to Prefect and MLflow."""


def grace_seconds(folder: Path) -> float:
    """Returns the grace that the `params.yaml` in a folder sets; the default where it cannot be read, which the stage itself reports."""
    try:
        params = load_yaml((folder / "params.yaml").read_text(encoding="utf-8"))
        return Launch.model_validate(params["launch"]).grace_seconds
    except (OSError, ValueError, KeyError, TypeError, YAMLError):
        return Launch().grace_seconds


def stop_seconds(folder: Path) -> int:
    """Returns how long whoever stops a worker, or a run's container, has to wait before killing it."""
    return round(grace_seconds(folder)) + WORKER_SECONDS + REPORT_SECONDS
