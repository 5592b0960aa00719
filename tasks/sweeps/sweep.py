"""A sweep: chooses settings, tries each in a run, and records the results, until enough trials have ended.

It accesses runs through `Runs` (for Prefect, `tasks.sweeps.trial_runs`) and stores all its state in `Trials`. So if its process ends, the
next one continues with the same trials: finished trials are not repeated, and trials whose run died are run again.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import httpx
from optuna.trial import TrialState

from reelnest.artifacts.registration_report import RegistrationReport
from reelnest.errors import RunError
from tasks.sweeps.search_space import SearchSpace, Tried
from tasks.sweeps.trials import Trial, Trials

T = TypeVar("T")

POLL_SECONDS = 3.0
REFUSED = (401, 403, 404, 422)
"""HTTP statuses for which a retry is useless."""
MOST_DEATHS = 3
"""How many runs of a trial may die before the trial fails: its settings probably crash the machine."""

STATES = {"running": TrialState.RUNNING, "completed": TrialState.COMPLETE, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class Ended:
    """How a run ended. `died` means that its process or machine did, so a retry may succeed."""

    kind: Literal["completed", "failed", "died", "cancelled"]
    why: str = ""
    value: float | None = None
    mlflow_run: str | None = None
    registration: RegistrationReport | None = None


class Runs(Protocol):
    """Runs the trials. Methods raise httpx.HTTPError if the server is unreachable, and are then retried."""

    def start(self, trial: Trial) -> str:
        """Starts the trial's current attempt and returns the run's id. If it was started before, returns the existing run's id."""

    def ended(self, run: str) -> Ended | None:
        """Returns how a run ended; None while it waits or runs."""

    def cancel(self, run: str) -> None:
        """Cancels a run, if it has not ended."""

    def check(self, waiting: list[str]) -> None:
        """Raises RunError if these runs will never start."""


def until(ask: Callable[[], T | None], on_trouble: Callable[[str], None]) -> T:
    """Calls `ask` repeatedly and returns its first result. Waits while Prefect's server is unreachable, as the runs themselves do.

    Raises RunError if the server rejects the request.
    """
    while True:
        try:
            if (result := ask()) is not None:
                return result
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in REFUSED:
                raise RunError(f"Prefect's server rejects the sweep's request (is PREFECT_API_AUTH_STRING correct?): {error}") from error
            on_trouble(f"Prefect's server is unreachable; retrying: {type(error).__name__}: {error}")
        time.sleep(POLL_SECONDS)


@dataclass
class Sweep:
    """A sweep. It calls `on_change` whenever a trial starts or ends, and `on_trouble` with a message while the server is unreachable."""

    space: SearchSpace
    seed: int
    trials: Trials
    runs: Runs
    on_change: Callable[[], None]
    on_trouble: Callable[[str], None]
    _deaths: Counter[int] = field(default_factory=Counter)

    def run(self, trials: int, at_once: int) -> None:
        """Runs until `trials` trials have ended. If it is stopped before that, it cancels the active runs."""
        try:
            until(self._take_over, self.on_trouble)
            until(lambda: self._look(trials, at_once), self.on_trouble)
        except BaseException:
            for trial in self.trials.running():
                if trial.run is not None:
                    with contextlib.suppress(httpx.HTTPError):
                        self.runs.cancel(trial.run)
            raise

    def _take_over(self) -> bool:
        """Takes over the trials of an earlier process of the sweep: cancelled ones are run again, active ones are waited for."""
        for trial in self.trials.running():
            ended = None if trial.run is None else self.runs.ended(trial.run)
            if ended is not None and ended.kind in ("died", "cancelled"):
                self._again(trial)
        return True

    def _look(self, trials: int, at_once: int) -> Literal[True] | None:
        for trial in self.trials.running():
            ended = None if trial.run is None else self.runs.ended(trial.run)
            if ended is not None:
                self._end(trial, ended)
        while len(self.trials.trials) < trials and len(self.trials.running()) < at_once:
            tried = [Tried(trial.settings, STATES[trial.state], trial.value) for trial in self.trials.trials]
            self.trials.trials.append(Trial(len(tried), self.space.choose(tried, self.seed)))
            self.trials.save()
        for trial in self.trials.running():
            if trial.run is None:
                # If this process is killed before the id is saved, the next one gets the same run for the same attempt.
                trial.run = self.runs.start(trial)
                self.trials.save()
                self.on_change()
        self.runs.check([trial.run for trial in self.trials.running() if trial.run is not None])
        return None if self.trials.running() else True

    def _end(self, trial: Trial, ended: Ended) -> None:
        if ended.kind == "died":
            self._deaths[trial.number] += 1
            if self._deaths[trial.number] < MOST_DEATHS:
                self._again(trial)
                return
        trial.state = "completed" if ended.kind == "completed" else "failed"
        trial.value, trial.mlflow_run, trial.why = ended.value, ended.mlflow_run, ended.why
        self.trials.save()
        self.on_change()

    def _again(self, trial: Trial) -> None:
        trial.attempt += 1
        trial.run = None
        self.trials.save()
