"""Tries settings and registers the best model. Each trial is a run of the deployment `by-hand`.

`prefect.yaml` has the deployment; docs/runs.md describes how to start a sweep.
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
from tasks.workspaces.settings_schema import key_schema

SWEEPS = Path("work/sweeps")

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Plan:
    """What identifies a sweep when it is started again: everything except the number of trials, and how many run at once."""

    commit: str
    space: dict[str, Any]
    seed: int
    params: Params

    @property
    def metric(self) -> str:
        """The metric of the registry, which a sweep maximises on the validation split."""
        return self.params.registration.metric

    @property
    def about(self) -> dict[str, Any]:
        """The parameters of the sweep's run in MLflow."""
        return {"commit": self.commit, "space": self.space, "seed": self.seed, "metric": self.metric}

    @property
    def key(self) -> str:
        """The name of the sweep's files and of its run in MLflow."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:16]


@flow(
    name="reelnest-sweep",
    description="Tries settings, each in a separate run, and registers the best model.",
    persist_result=False,
)
def sweep(
    space: Annotated[Space, Field(json_schema_extra={"propertyNames": key_schema()})],
    revision: Revision = "HEAD",
    trials: Count = 10,
    at_once: Count = 2,
    seed: Seed = 0,
) -> State[Any]:
    """Ends as Completed with the best settings; as Failed if the search space is invalid or no trial was completed.

    Args:
        space: The settings to try, by dotted key of params.yaml: {"train.learning_rate": {"low": 0.001, "high": 0.1, "log": true},
            "train.optimizer": ["adamw", "muon"]}.
        revision: The branch, tag or commit to run.
        trials: How many settings to try. To continue a sweep, use the same other parameters and more trials.
        at_once: The most trials at the same time; the deployment by-hand has its own limit.
        seed: The seed for the choice of settings.
    """
    checkout = Path.cwd()
    try:
        commit = commit_of(checkout, revision)
        params = params_at(checkout, commit)
        allowed, plan = SearchSpace(space, params), _plan(commit, params, space, seed)
        with lock_or_none(checkout / SWEEPS / f"{plan.key}.lock") as lock:
            if lock is None:
                return Failed(message=f"This sweep ({plan.key}) is already running. Use another seed to start a different one.")
            return _run(allowed, plan, trials, at_once)
    except ReelnestError as error:
        return Failed(message=str(error))


def _run(space: SearchSpace, plan: Plan, count: int, at_once: int) -> State[Any]:
    """Runs the trials, then registers the best model."""
    logger = get_run_logger()
    trials = Trials.read(Path.cwd() / SWEEPS / f"{plan.key}.json")
    mlflow_run = SweepRun.open(plan.params, plan.key, plan.about)
    pages = SweepPages(trials, plan.metric, mlflow_run)
    status: Status = "KILLED"
    try:
        runs = TrialRuns(Path.cwd(), plan.commit, plan.key, plan.metric, mlflow_run.id, str(flow_run.get_id()))
        Sweep(space, plan.seed, trials, runs, pages.show, logger.warning).run(count, at_once)
        status = "FAILED"
        best = trials.best()
        if best is None:
            return Failed(message=f"None of {len(trials.trials)} trials was completed. The last one: {trials.trials[-1].why}")
        logger.info("best: trial %d, %s %.4g with %s; registering it", best.number, plan.metric, best.value, best.settings)
        ended = runs.register(best, logger.warning)
        if ended.kind != "completed":
            return Failed(message=f"The registration of the best model {ended.kind}: {ended.why} Start the sweep again to retry.")
        status = "FINISHED"
        registration = ended.registration
        registered = f"version {registration.version}, {registration.decision}" if registration else "not registered"
        return Completed(
            message=f"best of {len(trials.trials)}: trial {best.number}, {plan.metric} {best.value:.4g} on the validation split with"
            f" {json.dumps(best.settings)}; {registered}"
        )
    except ReelnestError:
        status = "FAILED"
        raise
    finally:
        pages.close(status)


def _plan(commit: str, params: ParamsText, space: Space, seed: int) -> Plan:
    # Only the sections that the sweep itself needs. The others are for the trials, and may be those of another version.
    own = Params.model_validate({name: params.params[name] for name in ("register", "tracking") if name in params.params})
    plain = {key: values.model_dump() if isinstance(values, Range) else values for key, values in space.items()}
    return Plan(commit, plain, seed, own)
