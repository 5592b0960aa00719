"""Creates MLflow's database before its server starts, as the stages do, so that it never has only some of its tables.

Usage: `python -m tasks.services.mlflow_store FILE`. It is a separate process, so that `make up` does not have MLflow in memory for days.
"""

import sys
from pathlib import Path

from reelnest.errors import RegistryError
from reelnest.launch.command import prepare_process
from reelnest.registry.local_store import make_database


def main(file: Path) -> int:
    """Returns the exit status."""
    prepare_process()
    try:
        make_database(file)
    except RegistryError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
