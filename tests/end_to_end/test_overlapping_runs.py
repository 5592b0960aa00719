"""Deployments' runs at the same time, on one machine, with a real server, worker and stages: none disturbs another."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient

from reelnest.commands.runs import Run, saved_runs
from tests.support.running_services import ended, running_services, start
from tests.support.small_project import make_quick_project, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

STAGES = ("validate", "preprocess", "train", "evaluate")
Settings = dict[str, Any]
PLAIN: Settings = {}
OTHER_PAGE: Settings = {"evaluate.gallery_queries": 5}
"""Trains as PLAIN does, and evaluates by itself."""
SLOWER: Settings = {"train.learning_rate": 0.004}
SLOWER_AND_OTHER_PAGE: Settings = {**SLOWER, **OTHER_PAGE}
HOTTER: Settings = {"loss.temperature": 0.1}
HOTTER_AND_OTHER_PAGE: Settings = {**HOTTER, **OTHER_PAGE}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overlapping") / "project"
    make_quick_project(folder)
    return folder


@pytest.fixture(scope="module")
def alone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Settings], Any]:
    """Gives the metrics of a training when nothing runs beside it, made in a copy with a cache of its own."""
    folder = tmp_path_factory.mktemp("alone") / "project"
    shutil.copytree(project, folder, symlinks=True)
    found: dict[str, Any] = {}

    def metrics(settings: Settings) -> Any:
        name_of_settings = json.dumps(settings)
        if name_of_settings not in found:
            run(["git", "checkout", "--quiet", "params.yaml"], folder)
            params = yaml.safe_load((folder / "params.yaml").read_text())
            for key, value in settings.items():
                section, name = key.split(".")
                params[section][name] = value
            (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
            run(["dvc", "repro"], folder)
            found[name_of_settings] = json.loads((folder / "reports" / "metrics.json").read_text())
        return found[name_of_settings]

    return metrics


@pytest.fixture(scope="module")
def api(project: Path, alone: Callable[[Settings], Any]) -> Iterator[SyncPrefectClient]:
    with running_services(project) as client:
        yield client


def runs_at_once(api: SyncPrefectClient, project: Path, asked: list[tuple[str, Settings]]) -> list[Run]:
    """What is kept of runs of these deployments with these settings, in this order; each has to be completed."""
    before = {run.id for run in saved_runs(project)}
    runs = ended(api, [start(api, deployment, settings=settings) for deployment, settings in asked])
    assert [run.state_name for run in runs] == ["Completed"] * len(asked), [run.state and run.state.message for run in runs]
    starts, ends = [run.start_time for run in runs], [run.end_time for run in runs]
    assert max(start for start in starts if start) < min(end for end in ends if end)  # they did overlap
    kept = {run.flow_run: run for run in saved_runs(project) if run.id not in before}
    assert len(kept) == len(asked)
    return [kept[str(run.id)] for run in runs]


def executed(runs: list[Run]) -> Mapping[str, int]:
    """How often each stage ran, in all of the runs together."""
    return Counter(part.removesuffix(" ran") for run in runs for part in run.done.split(", ") if part.endswith(" ran"))


def test_two_overlapping_runs_share_what_is_the_same_and_give_what_they_give_alone(
    api: SyncPrefectClient, project: Path, alone: Callable[[Settings], Any]
) -> None:
    runs = runs_at_once(api, project, [("reelnest-train/nightly", PLAIN), ("reelnest-train/by-hand", OTHER_PAGE)])
    ran = executed(runs)
    assert [ran[stage] for stage in STAGES] == [1, 1, 1, 2]
    assert [run.metrics for run in runs] == [alone(PLAIN)] * 2
    assert {run.registration.version for run in runs} == {1}


def test_an_unchanged_run_afterwards_trains_nothing(api: SyncPrefectClient, project: Path) -> None:
    (run,) = runs_at_once(api, project, [("reelnest-train/nightly", PLAIN)])
    assert run.done == "validate unchanged, preprocess unchanged, train unchanged, evaluate unchanged, register unchanged"


@pytest.mark.series
def test_four_overlapping_runs_share_what_is_the_same_and_give_what_they_give_alone(
    api: SyncPrefectClient, project: Path, alone: Callable[[Settings], Any]
) -> None:
    asked = [
        ("reelnest-train/nightly", HOTTER_AND_OTHER_PAGE),
        ("reelnest-train/on-new-data", SLOWER),
        ("reelnest-train/by-hand", SLOWER_AND_OTHER_PAGE),
        ("reelnest-train/by-hand", HOTTER),
    ]
    runs = runs_at_once(api, project, asked)
    ran = executed(runs)
    assert [ran[stage] for stage in STAGES] == [0, 0, 2, 4]
    assert [run.metrics for run in runs] == [alone(settings) for settings in (HOTTER, SLOWER, SLOWER, HOTTER)]
    # One version for each of the models, whoever registered it.
    hotter, slower, slower_too, hotter_too = (run.registration.version for run in runs)
    assert len({hotter, slower, 1}) == 3
    assert (hotter_too, slower_too) == (hotter, slower)
    assert not list((project / "work" / "runs").iterdir())
