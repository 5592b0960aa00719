"""A sweep: asks for settings, has each tried by a run, and tells what came of it, until so many trials have ended.

It knows runs by what `Runs` says of them (`tasks.sweeps.trial_runs`: Prefect's), and keeps all that it knows in `Trials`. So whatever
happens to its process, the next one looks at the same trials and goes on: no finished trial runs again, and one whose run died is run
again.
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
"""Answers of a server that would be the same again."""
MOST_DEATHS = 3
"""Runs of one trial that were cut off under one sweep: settings that bring a machine down are no good settings."""

STATES = {"running": TrialState.RUNNING, "completed": TrialState.COMPLETE, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class Ended:
    """How a run ended. `died`: its process or machine did, so another try may end well."""

    kind: Literal["completed", "failed", "died", "cancelled"]
    why: str = ""
    value: float | None = None
    mlflow_run: str | None = None
    registration: RegistrationReport | None = None


class Runs(Protocol):
    """What runs the trials. A server that is away raises httpx.HTTPError, and is asked again."""

    def start(self, trial: Trial) -> str:
        """Starts the trial's present attempt and returns its id; that of the run that there is, where it was started before."""

    def ended(self, run: str) -> Ended | None:
        """None while it waits or runs."""

    def cancel(self, run: str) -> None:
        """Ends it, if it has not ended."""

    def check(self, waiting: list[str]) -> None:
        """Raises RunError where nothing will ever start these."""


def until(ask: Callable[[], T | None], on_trouble: Callable[[str], None]) -> T:
    """Asks again and again, for the first answer. While Prefect's server is away it waits for it, as the runs themselves do.

    Raises RunError where the server is there and refuses.
    """
    while True:
        try:
            if (result := ask()) is not None:
                return result
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in REFUSED:
                raise RunError(f"Prefect's server refuses what the sweep asks (is PREFECT_API_AUTH_STRING right?): {error}") from error
            on_trouble(f"Prefect's server is away, and will be asked again: {type(error).__name__}: {error}")
        time.sleep(POLL_SECONDS)


@dataclass
class Sweep:
    """`on_change` is called whenever a trial began or ended, `on_trouble` with each line of a server that is away."""

    space: SearchSpace
    seed: int
    trials: Trials
    runs: Runs
    on_change: Callable[[], None]
    on_trouble: Callable[[str], None]
    _deaths: Counter[int] = field(default_factory=Counter)

    def run(self, trials: int, at_once: int) -> None:
        """Until `wanted` trials have ended. Stopped before that, by whatever it is, it cancels the runs that are under way."""
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
        """Trials that another process of the sweep left: cancelled with it, they are run again; still at work, they are waited for."""
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
        while len(self.trials.found) < trials and len(self.trials.running()) < at_once:
            tried = [Tried(trial.settings, STATES[trial.state], trial.value) for trial in self.trials.found]
            self.trials.found.append(Trial(len(tried), self.space.choose(tried, self.seed)))
            self.trials.save()
        for trial in self.trials.running():
            if trial.run is None:
                # Killed before the id is kept, the next process gets the same run for the same attempt.
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
