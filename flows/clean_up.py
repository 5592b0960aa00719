"""Removes what past runs leave: run refs, worktrees, checkpoints, DVC's cache, MLflow's and Prefect's runs.

Usage: `python -m flows.clean_up` says what would go, `python -m flows.clean_up --delete` removes it. `prefect.yaml` holds its schedule.
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
    description="Keeps the newest runs and the champions' with their lineage; removes the rest.",
    persist_result=False,
)
def clean_up(keep: Keep = KEEP, days: Days = DAYS, delete: bool = False) -> State[Any]:
    """A dry run first, always; its list is the page of the run.

    Args:
        keep: The newest so many runs stay, and every run behind a champion.
        days: Prefect's runs that ended within these stay, and trainings that were cut off within them.
        delete: Off: only says what would go (a dry run).
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
    parser.add_argument("--keep", type=int, default=KEEP, help="newest runs that stay (%(default)s)")
    parser.add_argument("--days", type=int, default=DAYS, help="of Prefect's runs and of unfinished trainings that stay (%(default)s)")
    parser.add_argument("--delete", action="store_true", help="remove; left out: say what would go")
    asked = parser.parse_args()
    with prefect_api(Path.cwd()):
        state = clean_up(asked.keep, asked.days, asked.delete, return_state=True)
    sys.stderr.write(f"\n{state.message}\n")
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
