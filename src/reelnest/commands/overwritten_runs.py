"""Run refs that several runs wrote, and how to restore the runs that were overwritten.

Version 0.1 named a run after the first twelve digits of its flow run's id, which are a time in milliseconds. Prefect's scheduler creates
many runs in a millisecond, so each of these moved the ref of the one before. Since then refs are created and never moved, and their records
have the full id. So only refs without it are checked.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reelnest.commands.runs import RECORD, REFS, Run
from reelnest.errors import ReelnestError, RunError
from reelnest.git import git
from reelnest.settings import load_params


@dataclass(frozen=True)
class Overwritten:
    """A run whose ref another run took over."""

    ref: str
    text: str
    """What is known of it, and how to restore it if git still has its commit."""


def overwritten_runs(folder: Path, runs: Iterable[Run]) -> list[Overwritten]:
    """Finds overwritten runs in git's reflog and unreachable commits, and MLflow's runs whose flow run has no ref."""
    old = {run.id: run for run in runs if not run.flow_run}
    if not old:
        return []
    return [*_commits(folder, old), *_trainings(folder, old)]


def _commits(folder: Path, old: dict[str, Run]) -> Iterator[Overwritten]:
    unreachable = git(folder, "fsck", "--unreachable", "--no-reflogs", "--no-progress", "--connectivity-only")
    commits = [line.split(" ")[2] for line in unreachable.splitlines() if line.startswith("unreachable commit ")]
    for run in old.values():
        try:
            commits += git(folder, "reflog", "show", "--format=%H", run.ref).splitlines()
        except RunError:
            continue  # git has no reflog for such refs, unless core.logAllRefUpdates is `always`
    number = dict.fromkeys(old, 1)
    for commit in dict.fromkeys(commits):
        try:
            record = json.loads(git(folder, "show", f"{commit}:{RECORD}"))
            run = old[record["id"]]
        except (RunError, ValueError, KeyError, TypeError):
            continue
        if commit != run.commit:
            number[run.id] += 1
            text = f"the run that ended {record.get('ended')} ({record.get('name')}). To restore it before `git gc` removes its commit:"
            yield Overwritten(run.ref, f"{text} git update-ref {REFS}{run.id}-{number[run.id]} {commit}")


def _trainings(folder: Path, old: dict[str, Run]) -> Iterator[Overwritten]:
    from reelnest.registry.lineage.lineage import trainings_of_flow_runs

    known = {run.mlflow_run for run in old.values()}
    try:
        params = load_params(folder / "params.yaml")
        for run in old.values():
            for training, flow_run in trainings_of_flow_runs(params, f"{run.id[:8]}-{run.id[8:12]}"):
                if training not in known:
                    yield Overwritten(run.ref, f"the training {training} in MLflow, of the flow run {flow_run}, has no ref.")
    except ReelnestError as error:
        yield Overwritten(", ".join(run.ref for run in old.values()), f"MLflow could not be searched for other runs: {error}")
