"""The runs of a sweep's trials: runs of a deployment, as the Run button starts them.

Each runs in its own worktree (`tasks.workspaces.run_workspace`), and its metrics are read from its saved run. The sweep itself trains
nothing: it occupies one slot while its trials need others. So it starts only if there is more than one slot, and ends with an error if its
trials still wait while nothing else runs in the work pool.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from reelnest.commands.runs import Run, saved_runs
from reelnest.errors import RunError
from tasks.sweeps.sweep import Ended, until
from tasks.sweeps.trials import Trial

DEPLOYMENT = "reelnest-train/by-hand"
STARTING_SECONDS = 600.0
"""How long trials may wait while nothing else runs: time to find a machine or download an image."""
AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
KINDS = {StateType.FAILED: "failed", StateType.CRASHED: "died", StateType.CANCELLED: "cancelled"}


class TrialRuns:
    """Runs of DEPLOYMENT at one commit.

    `own` is the sweep's flow run. Raises RunError if the deployment does not exist or its work pool has no second slot.
    """

    def __init__(self, checkout: Path, commit: str, key: str, metric: str, parent_run: str, own: str) -> None:
        self._checkout, self._commit, self._key = checkout, commit, key
        self._metric, self._parent_run, self._own = metric, parent_run, own
        self._idle_since: float | None = None
        with get_client(sync_client=True) as client:
            try:
                deployment = client.read_deployment_by_name(DEPLOYMENT)
            except ObjectNotFound:
                raise RunError(f"Prefect has no deployment {DEPLOYMENT}, which runs the trials. Run `reelnest deploy`.") from None
            self._pool = deployment.work_pool_name or ""
            pool = client.read_work_pool(self._pool)
        if pool.concurrency_limit is not None and pool.concurrency_limit < 2:
            raise RunError(
                f"The work pool {self._pool} has {pool.concurrency_limit} slot, which the sweep itself needs, so no trial could start."
                f" Raise the limit: prefect work-pool set-concurrency-limit {self._pool} 3"
            )

    def start(self, trial: Trial) -> str:
        """Starts the trial's current attempt. If it was started before, Prefect returns the existing run."""
        return self._start(
            f"sweep-{self._key[:8]}-trial-{trial.number}",
            trial.settings,
            f"{self._key}-{trial.number}-{trial.attempt}",
            register_model=False,
        )

    def register(self, trial: Trial, on_trouble: Callable[[str], None]) -> Ended:
        """Starts a run with the trial's settings that registers its model, and waits for it. The stages come from DVC's cache."""
        run = self._start(f"sweep-{self._key[:8]}-best", trial.settings, f"{self._key}-best-{self._own}", register_model=True)

        def look() -> Ended | None:
            ended = self.ended(run)
            if ended is None:
                self.check([run])
            return ended

        try:
            return until(look, on_trouble)
        except BaseException:
            with contextlib.suppress(httpx.HTTPError):
                self.cancel(run)
            raise

    def ended(self, run: str) -> Ended | None:
        """Returns how a run ended; None while it waits or runs.

        The value is the metric on the validation split. The registry's gate uses the test split: choosing by that would overestimate the
        best trial.
        """
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(UUID(run)).state
        except ObjectNotFound:
            return Ended("died", "Prefect no longer has the run")
        if state is None or not state.is_final():
            return None
        if state.type != StateType.COMPLETED:
            return Ended(KINDS[state.type], state.message or state.name or "")  # type: ignore[arg-type]  # a final state has a type
        saved = self._saved(run)
        if saved is None:
            return Ended("died", "its saved run no longer exists")
        if self._metric not in saved.validation:
            return Ended("failed", f"no {self._metric} on the validation split, which a sweep needs (data.validation_fraction)")
        return Ended("completed", value=saved.validation[self._metric], mlflow_run=saved.mlflow_run, registration=saved.registration)

    def _saved(self, run: str) -> Run | None:
        return next((saved for saved in saved_runs(self._checkout) if saved.flow_run == run), None)

    def cancel(self, run: str) -> None:
        """Cancels a run, which its worker then stops."""
        try:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(UUID(run), Cancelling(message="The sweep was stopped."))
        except ObjectNotFound:
            return

    def check(self, waiting: Sequence[str]) -> None:
        """Raises RunError if all have waited for STARTING_SECONDS while only this sweep ran in the work pool."""
        if not waiting or any(str(run.id) != self._own for run in self._at_work()):
            self._idle_since = None
            return
        self._idle_since = self._idle_since or time.monotonic()
        if time.monotonic() - self._idle_since > STARTING_SECONDS:
            raise RunError(
                f"{len(waiting)} trials have waited for {STARTING_SECONDS / 60:.0f} minutes, and nothing else runs in the work pool"
                f" {self._pool}. A worker that runs one at a time is busy with the sweep itself: start it with a --limit of 2 or more,"
                " then start the sweep again with the same parameters, and it continues."
            )

    def _at_work(self) -> list[FlowRun]:
        with get_client(sync_client=True) as client:
            return client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK))),
                work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool])),
            )

    def _start(self, name: str, settings: dict[str, Any], idempotency_key: str, *, register_model: bool) -> str:
        run = cast(
            "FlowRun",
            run_deployment(
                DEPLOYMENT,
                parameters={
                    "revision": self._commit,
                    "settings": settings,
                    "register_model": register_model,
                    "parent_run": self._parent_run,
                },
                flow_run_name=name,
                tags=["sweep"],
                idempotency_key=idempotency_key,
                timeout=0,
            ),
        )
        return str(run.id)
