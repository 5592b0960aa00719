"""What an unchanged run of a deployment costs: a small project's, with the services that `make up` starts.

The project is the tests' (`tests/support/small_project.py`): how much data there is does not matter to a run that has nothing to do but
link it. The seconds are those from the run's submission to its end: the worker's poll, the process's start and imports, the worktree, DVC's
look at each stage, and the commit that is kept.
"""

import functools
import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import ROOT, Benchmark, Figures

PAST_RUNS = 1000
FOLDER = ROOT / "work" / "bench" / "scheduling"
DEPLOYMENT = "reelnest-train/nightly"


@functools.cache
def _setup() -> None:
    """Two copies of a project in which one run was made: one as it is, and one in which it was made PAST_RUNS times."""
    from tests.support.running_services import ended, running_services, start
    from tests.support.small_project import make_quick_project

    shutil.rmtree(FOLDER, ignore_errors=True)
    project = FOLDER / "none" / "project"
    make_quick_project(project)
    with running_services(project) as api:
        (run,) = ended(api, [start(api, DEPLOYMENT)])
        if run.state is None or not run.state.is_completed():
            raise RuntimeError(f"the first run did not complete: {run.state}")
    # In another place the first project's deployments would be the wrong ones: each copy's services deploy its own.
    shutil.copytree(FOLDER / "none", FOLDER / "many", symlinks=True)
    _add_saved_runs(FOLDER / "many" / "project")
    with running_services(FOLDER / "many" / "project") as api:
        deployment = api.read_deployment_by_name(DEPLOYMENT)
        for number in range(PAST_RUNS):
            made = api.create_flow_run_from_deployment(deployment.id, name=f"past-{number}", state=_completed(number))
            if made.state is None or not made.state.is_completed():
                raise RuntimeError(f"a past run was not taken: {made.state}")


def _completed(number: int) -> Any:
    from prefect.states import Completed
    from prefect.types import DateTime

    return Completed(message="nothing new", timestamp=DateTime.now("UTC") - timedelta(hours=number))


def _add_saved_runs(project: Path) -> None:
    """Refs as PAST_RUNS runs would have left them: each a commit with a record of its own, and all else as the one that was made has it."""

    def git(*arguments: str, text: str | None = None) -> str:
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@example"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=project, input=text, check=True, capture_output=True, text=True).stdout.strip()

    (ref,) = git("for-each-ref", "--format=%(refname)", "refs/reelnest/runs/").splitlines()
    record = json.loads(git("show", f"{ref}:run.json"))
    listing = git("ls-tree", ref)
    for number in range(PAST_RUNS):
        blob = git("hash-object", "-w", "--stdin", text=json.dumps({**record, "id": f"{number:012x}", "flow_run": f"past-{number}"}))
        lines = [f"100644 blob {blob}\trun.json" if line.endswith("\trun.json") else line for line in listing.splitlines()]
        tree = git("mktree", text="\n".join(lines) + "\n")
        commit = git("commit-tree", "-p", f"{ref}^", "-m", f"Run {number}", tree)
        git("update-ref", f"refs/reelnest/runs/{number:012x}", commit)


def _unchanged(past: str) -> Figures:
    """Seconds of the second of two unchanged runs: the first one is a server's first."""
    from tests.support.running_services import ended, running_services, start

    with running_services(FOLDER / past / "project") as api:
        for _ in range(2):
            (run,) = ended(api, [start(api, DEPLOYMENT)])
            message = str(run.state and run.state.message)
            if " ran" in message or "register unchanged" not in message:
                raise RuntimeError(f"not an unchanged run: {message}")
    if run.created is None or run.end_time is None or run.start_time is None:
        raise RuntimeError(f"a run without times: {run}")
    seconds = (run.end_time - run.created).total_seconds()
    sys.stderr.write(f"  {past}: {seconds:.1f} s, of which {(run.end_time - run.start_time).total_seconds():.1f} s in the flow\n")
    return {"seconds": seconds}


BENCHMARKS = {
    "unchanged-run": Benchmark(
        what="a scheduled run with nothing to do, from its submission to its end",
        against="30 seconds",
        at_least=1.0,
        ours=lambda: lambda: _unchanged("none"),
        theirs=lambda: lambda: {"seconds": 30.0},
        counts=True,
        runs=3,
        setup=_setup,
    ),
    "past-runs": Benchmark(
        what=f"the same with {PAST_RUNS:,} kept runs, which Prefect knows too",
        against="the same with one",
        at_least=0.9,
        ours=lambda: lambda: _unchanged("many"),
        theirs=lambda: lambda: _unchanged("none"),
        counts=True,
        runs=3,
        setup=_setup,
    ),
}
