"""Removes what past runs no longer need: run refs, worktrees, checkpoints, files in DVC's cache, MLflow's and Prefect's runs.

Usage: `python -m flows.clean_up` lists what would be removed, `python -m flows.clean_up --delete` removes it. `prefect.yaml` has the
schedule.
"""

import argparse
import sys
from pathlib import Path
from typing import Annotated, Any

from tasks.process.runner import quieten

quieten()  # before Prefect reads its settings

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from reelnest.errors import ReelnestError
from tasks.pages.markdown import escape, page
from tasks.services.prefect_server import prefect_api
from tasks.workspaces import retention

KEEP, DAYS = 30, 30

Keep = Annotated[int, Field(ge=0)]
Days = Annotated[int, Field(ge=1)]


@flow(
    name="reelnest-clean-up",
    description="Keeps the newest runs and the runs of champions with their lineage; removes the others.",
    persist_result=False,
)
def clean_up(keep: Keep = KEEP, days: Days = DAYS, delete: bool = False) -> State[Any]:
    """Lists what to remove on the page of the run, and removes it if `delete` is on.

    Args:
        keep: How many of the newest runs to keep. The runs of champions are kept too.
        days: Prefect's runs that ended, and trainings that were interrupted, within this many days are kept.
        delete: Off only lists what would be removed (a dry run).
    """
    checkout = Path.cwd()
    try:
        plan = retention.plan(checkout, keep, days)
        text = plan.text()
        get_run_logger().info("%s\n%s", "removes" if delete else "would remove", text)
        heading = "# Removed" if delete else "# Would be removed (a dry run)"
        create_markdown_artifact(key="clean-up", markdown=page(heading, *map(escape, text.splitlines())))
        if delete:
            retention.carry_out(plan, checkout)
    except ReelnestError as error:
        return Failed(message=str(error))
    return Completed(message="removed" if delete else "nothing was removed: a dry run")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.clean_up", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=int, default=KEEP, help="how many of the newest runs to keep (%(default)s)")
    parser.add_argument("--days", type=int, default=DAYS, help="keep Prefect's runs and unfinished trainings this long (%(default)s)")
    parser.add_argument("--delete", action="store_true", help="remove; without it, only list what would be removed")
    arguments = parser.parse_args()
    with prefect_api(Path.cwd()):
        state = clean_up(arguments.keep, arguments.days, arguments.delete, return_state=True)
    sys.stderr.write(f"\n{state.message}\n")
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
