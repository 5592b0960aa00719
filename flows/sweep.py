"""Tries settings and registers the best: each trial is a run of the deployment `by-hand`, and only the best one's model is registered.

`prefect.yaml` holds the deployment; docs/runs.md says how to start one.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tasks.process.runner import quieten

quieten()  # before Prefect reads its settings

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows.scheduled import Revision
from reelnest.errors import ReelnestError
from reelnest.registry.sweeps import SweepRun
from reelnest.settings import Params
from reelnest.training.tracker import Status
from tasks.process.locks import lock_or_none
from tasks.sweeps.search_space import Range, SearchSpace, Space
from tasks.sweeps.sweep import Sweep
from tasks.sweeps.sweep_pages import SweepPages
from tasks.sweeps.trial_runs import TrialRuns
from tasks.sweeps.trials import Trials
from tasks.workspaces.params_text import ParamsText
from tasks.workspaces.revisions import commit_of, params_at

SWEEPS = Path("work/sweeps")

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Plan:
    """What makes a sweep the same one, whoever starts it again: all but how many trials, and how many at once."""

    commit: str
    space: dict[str, Any]
    seed: int
    params: Params

    @property
    def metric(self) -> str:
        """The registry's, at the validation split."""
        return self.params.registration.metric

    @property
    def about(self) -> dict[str, Any]:
        """As MLflow shows it."""
        return {"commit": self.commit, "space": self.space, "seed": self.seed, "metric": self.metric}

    @property
    def key(self) -> str:
        """Names the sweep's files, and its run in MLflow."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:16]


@flow(
    name="reelnest-sweep",
    description="Tries settings, each in a run of its own, and registers the best.",
    persist_result=False,
)
def sweep(space: Space, revision: Revision = "HEAD", trials: Count = 10, at_once: Count = 2, seed: Seed = 0) -> State[Any]:
    """Completed with the best settings; Failed where a setting cannot be tried, or no trial was completed.

    Args:
        space: What to try, by dotted key of params.yaml: {"train.learning_rate": {"low": 0.001, "high": 0.1, "log": true},
            "train.optimizer": ["adamw", "muon"]}.
        revision: What to run, as for a training by hand.
        trials: How many settings to try. More than before goes on where a sweep with the same other parameters ended.
        at_once: At most so many trials at the same time; the deployment by-hand has a limit of its own.
        seed: Of the choice among the settings.
    """
    checkout = Path.cwd()
    try:
        commit = commit_of(checkout, revision)
        params = params_at(checkout, commit)
        allowed, plan = SearchSpace(space, params), _plan(commit, params, space, seed)
        with lock_or_none(checkout / SWEEPS / f"{plan.key}.lock") as lock:
            if lock is None:
                return Failed(message=f"This sweep ({plan.key}) runs already. Another seed makes another one.")
            return _run(allowed, plan, trials, at_once)
    except ReelnestError as error:
        return Failed(message=str(error))


def _run(space: SearchSpace, plan: Plan, wanted: int, at_once: int) -> State[Any]:
    """The trials, then the best one's registration."""
    logger = get_run_logger()
    trials = Trials.read(Path.cwd() / SWEEPS / f"{plan.key}.json")
    mlflow_run = SweepRun.open(plan.params, plan.key, plan.about)
    pages = SweepPages(trials, plan.metric, mlflow_run)
    status: Status = "KILLED"
    try:
        runs = TrialRuns(Path.cwd(), plan.commit, plan.key, plan.metric, mlflow_run.id, str(flow_run.get_id()))
        Sweep(space, plan.seed, trials, runs, pages.show, logger.warning).run(wanted, at_once)
        status = "FAILED"
        best = trials.best()
        if best is None:
            return Failed(message=f"None of {len(trials.found)} trials was completed. The last one: {trials.found[-1].why}")
        logger.info("the best: trial %d, %s %.4g with %s; it is registered now", best.number, plan.metric, best.value, best.settings)
        ended = runs.register(best, logger.warning)
        if ended.kind != "completed":
            return Failed(message=f"The best one's registration {ended.kind}: {ended.why} Started again, the sweep registers it again.")
        status = "FINISHED"
        registration = ended.registration
        registered = f"version {registration.version}, {registration.decision}" if registration else "not registered"
        return Completed(
            message=f"best of {len(trials.found)}: trial {best.number}, {plan.metric} {best.value:.4g} on the validation split with"
            f" {json.dumps(best.settings)}; {registered}"
        )
    except ReelnestError:
        status = "FAILED"
        raise
    finally:
        pages.close(status)


def _plan(commit: str, params: ParamsText, space: Space, seed: int) -> Plan:
    # Those sections that the sweep itself goes by. The others are the trials' own, and may be another version's.
    own = Params.model_validate({name: params.params[name] for name in ("register", "tracking") if name in params.params})
    plain = {key: asked.model_dump() if isinstance(asked, Range) else asked for key, asked in space.items()}
    return Plan(commit, plain, seed, own)
