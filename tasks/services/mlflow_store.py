"""Creates MLflow's database and experiment before its server starts, as the stages do, so that it never has only some of its tables.

Usage: `python -m tasks.services.mlflow_store FILE`, in the folder with params.yaml. The last line that it prints is the path of the page
of the training runs. It is a separate process, so that `make up` does not have MLflow in memory for days.
"""

import sys
from pathlib import Path

from reelnest.errors import ConfigError, RegistryError
from reelnest.launch.command import prepare_process
from reelnest.registry.connection import connect
from reelnest.registry.run_notes import TRAINING_RUNS
from reelnest.settings import Params, Tracking, load_params


def main(file: Path) -> int:
    """Returns the exit status."""
    prepare_process()
    try:
        experiment = connect(_settings(file))
    except RegistryError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{TRAINING_RUNS.format(experiment=experiment)}\n")
    return 0


def _settings(file: Path) -> Params:
    try:
        name = load_params().tracking.experiment
    except ConfigError:  # the services do not need params.yaml, which may be half edited
        name = Tracking().experiment
    return Params(tracking=Tracking(uri=f"sqlite:///{file}", experiment=name))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
