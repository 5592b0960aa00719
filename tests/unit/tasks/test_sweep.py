"""A sweep's bookkeeping: what it asks for, what it keeps of what came, and how it goes on after it was cut off. Runs are stand-ins."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from reelnest.errors import RunError
from tasks.sweeps import sweep
from tasks.sweeps.search_space import Range, SearchSpace, Space
from tasks.sweeps.sweep import Ended, Sweep
from tasks.sweeps.trials import Trial, Trials
from tasks.workspaces.params_text import ParamsText

PARAMS = (Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8")
RATE = "train.learning_rate"
SPACE: Space = {RATE: Range(low=0.001, high=0.1, log=True), "train.epochs": Range(low=1, high=5), "model.dims": [[16, 32], [16, 64]]}


class Killed(BaseException):
    """The sweep's process is no more."""


@dataclass
class StandInRuns:
    """Runs that end at once, with the learning rate as their figure; `ends` says how others end, by their name."""

    ends: dict[str, list[Ended | BaseException | None]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    most_at_once: int = 0
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)

    def start(self, trial: Trial) -> str:
        name = f"{trial.number}.{trial.attempt}"
        if name not in self.settings:
            self.started.append(name)
            self.open.add(name)
        self.most_at_once = max(self.most_at_once, len(self.open))
        self.settings[name] = trial.settings
        return name

    def ended(self, run: str) -> Ended | None:
        end = self.ends[run].pop(0) if self.ends.get(run) else Ended("completed", value=self.settings[run][RATE], mlflow_run=f"m{run}")
        if isinstance(end, BaseException):
            raise end
        if end is not None:
            self.open.discard(run)
        return end

    def cancel(self, run: str) -> None:
        self.cancelled.append(run)

    def check(self, waiting: list[str]) -> None:
        pass


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.0)


def space(of: Space = SPACE) -> SearchSpace:
    return SearchSpace(of, ParamsText(PARAMS, "c0ffee"))


def run(path: Path, runs: StandInRuns, wanted: int, at_once: int = 1, seed: int = 0) -> list[Trial]:
    """As a new process would: with what the file says and nothing else."""
    trials = Trials.read(path)
    Sweep(space(), seed, trials, runs, lambda: None, lambda _: None).run(wanted, at_once)
    assert Trials.read(path).trials == trials.trials
    return trials.trials


def test_trials_stay_in_their_space_and_the_best_has_the_highest_figure(tmp_path: Path) -> None:
    runs = StandInRuns()
    found = run(tmp_path / "s.json", runs, 12, at_once=3)
    assert runs.most_at_once == 3
    assert len({trial.settings[RATE] for trial in found}) == 12
    for trial in found:
        assert 0.001 <= trial.settings[RATE] <= 0.1
        assert trial.settings["train.epochs"] in range(1, 6)
        assert trial.settings["model.dims"] in ([16, 32], [16, 64])
        assert trial.value == trial.settings[RATE]
    best = Trials(tmp_path, found).best()
    assert best is not None
    assert best.value == max(trial.value or 0 for trial in found)
    # The estimator has learnt where figures are high.
    more = run(tmp_path / "s.json", StandInRuns(), 30)[12:]
    assert sum(trial.settings[RATE] > 0.03 for trial in more) > len(more) / 2


def test_a_killed_sweep_goes_on_as_it_would_have_gone(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.json", StandInRuns(), 6)
    runs = StandInRuns({"3.0": [None, Killed()]})
    with pytest.raises(Killed):
        run(tmp_path / "killed.json", runs, 6)
    again = run(tmp_path / "killed.json", runs, 6)
    assert [trial.settings for trial in again] == [trial.settings for trial in whole]
    assert runs.started == [f"{number}.0" for number in range(6)]
    assert run(tmp_path / "killed.json", runs, 6) == again
    assert len(runs.started) == 6


def test_killed_between_a_runs_start_and_its_note_the_same_run_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = StandInRuns()
    start = StandInRuns.start

    def killed_after_start(runs: StandInRuns, trial: Trial) -> str:
        name = start(runs, trial)
        if name == "1.0":
            raise Killed
        return name

    with monkeypatch.context() as patch:
        patch.setattr(StandInRuns, "start", killed_after_start)
        with pytest.raises(Killed):
            run(tmp_path / "s.json", runs, 3)
    found = run(tmp_path / "s.json", runs, 3)
    assert runs.started == ["0.0", "1.0", "2.0"]
    assert [trial.state for trial in found] == ["completed"] * 3


def test_a_run_that_died_is_run_again_and_not_for_ever(tmp_path: Path) -> None:
    died = Ended("died", "its worker ended")
    runs = StandInRuns({"0.0": [died], "1.0": [died], "1.1": [died], "1.2": [died]})
    found = run(tmp_path / "s.json", runs, 3)
    assert runs.started == ["0.0", "0.1", "1.0", "1.1", "1.2", "2.0"]
    assert [trial.state for trial in found] == ["completed", "failed", "completed"]
    assert found[1].why == "its worker ended"
    assert runs.settings["0.0"] == runs.settings["0.1"]


def test_failed_and_cancelled_trials_end_no_sweep_and_are_never_the_best(tmp_path: Path) -> None:
    runs = StandInRuns({"0.0": [Ended("failed", "Stage train failed.")], "1.0": [Ended("cancelled", "by Anna")]})
    found = run(tmp_path / "s.json", runs, 4, at_once=2)
    assert [trial.state for trial in found] == ["failed", "failed", "completed", "completed"]
    assert [trial.why for trial in found[:2]] == ["Stage train failed.", "by Anna"]
    best = Trials(tmp_path, found).best()
    assert best is not None
    assert best.number in (2, 3)
    assert Trials(tmp_path, found[:2]).best() is None


def test_a_stopped_sweep_cancels_its_runs_and_runs_them_again_when_started_again(tmp_path: Path) -> None:
    runs = StandInRuns({"0.0": [None, None, None, Ended("cancelled")], "1.0": [None, Killed(), Ended("cancelled")]})
    with pytest.raises(Killed):
        run(tmp_path / "s.json", runs, 2, at_once=2)
    assert runs.cancelled == ["0.0", "1.0"]
    runs.ends["0.0"] = [Ended("cancelled")]
    found = run(tmp_path / "s.json", runs, 2, at_once=2)
    assert runs.started == ["0.0", "1.0", "0.1", "1.1"]
    assert [trial.state for trial in found] == ["completed", "completed"]


def test_a_server_that_is_away_for_a_while_costs_nothing(tmp_path: Path) -> None:
    away = httpx.ConnectError("refused")
    runs = StandInRuns({"0.0": [away, away], "1.0": [None, away]})
    said: list[str] = []
    Sweep(space(), 0, Trials(tmp_path / "s.json"), runs, lambda: None, said.append).run(2, 1)
    assert len(said) == 3
    assert "refused" in said[0]
    assert runs.started == ["0.0", "1.0"]


def test_a_server_that_refuses_ends_the_sweep(tmp_path: Path) -> None:
    request = httpx.Request("GET", "http://prefect.example/api")
    refused = httpx.HTTPStatusError("401 Unauthorized", request=request, response=httpx.Response(401, request=request))
    runs = StandInRuns({"0.0": [None, refused]})
    with pytest.raises(RunError, match=r"PREFECT_API_AUTH_STRING.*401"):
        run(tmp_path / "s.json", runs, 1, at_once=1)
    assert runs.cancelled == ["0.0"]


@pytest.mark.parametrize(
    ("of", "says"),
    [
        ({"train.lerning_rate": [1]}, r"no train\.lerning_rate; did you mean train\.learning_rate\?"),
        ({"train.optimizer": ["sgd"]}, r"train\.optimizer: .*'adamw' or 'muon'; found 'sgd'"),
        ({"train.epochs": Range(low=0, high=3)}, r"train\.epochs: .*greater than or equal to 1; found 0"),
        ({"train.batch_size": Range(low=16.5, high=32)}, r"train\.batch_size: .*integer.*16\.5"),
        ({RATE: Range(low=0.1, high=0.01)}, r"low is above high; found low 0\.1, high 0\.01\. Expected"),
        ({RATE: Range(low=0, high=0.1, log=True)}, "must start above 0"),
        ({RATE: []}, "list of choices is empty"),
        ({}, "no setting to try"),
    ],
)
def test_a_space_that_cannot_be_tried_is_refused_with_its_key(of: Space, says: str) -> None:
    with pytest.raises(RunError, match=says):
        space(of)


def test_ranges_are_whole_where_the_setting_is_and_settings_that_change_together_are_allowed() -> None:
    of: Space = {"train.weight_decay": Range(low=0, high=1), "model.projection": [64], "model.dims": [[16, 64]], "train.best_dim": [64]}
    chosen = [space(of).choose([], seed) for seed in range(4)]
    assert not all(one["train.weight_decay"] in (0, 1) for one in chosen)
    assert chosen[0]["model.projection"] == 64
