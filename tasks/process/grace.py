"""Grace periods: how long a stage has between SIGTERM and SIGKILL (`launch.grace_seconds`), and how long its worker must wait."""

from pathlib import Path

from reelnest.settings import Launch
from reelnest.yaml_files import YAMLError, load_yaml

WORKER_SECONDS = 30
"""How long Prefect waits for the process of a flow run that it stops."""
REPORT_SECONDS = 60
"""Time to report the ends of runs to Prefect and MLflow."""


def grace_seconds(folder: Path) -> float:
    """Returns the grace period in a folder's `params.yaml`; the default if the file is invalid, which the stage itself reports."""
    try:
        params = load_yaml((folder / "params.yaml").read_text(encoding="utf-8"))
        return Launch.model_validate(params["launch"]).grace_seconds
    except (OSError, ValueError, KeyError, TypeError, YAMLError):
        return Launch().grace_seconds


def stop_seconds(folder: Path) -> int:
    """Returns how long to wait between stopping and killing a worker or a run's container."""
    return round(grace_seconds(folder)) + WORKER_SECONDS + REPORT_SECONDS
