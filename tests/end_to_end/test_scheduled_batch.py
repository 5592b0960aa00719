"""Runs that Prefect's own scheduler makes, many in one millisecond: each is kept under a name of its own."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import CronSchedule

from reelnest.commands.runs import Run, saved_runs
from tests.support.running_services import ended, start
from tests.support.small_project import COMMIT, make_quick_project, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

DEPLOYMENTS = ("nightly", "by-hand")
"""Both are due at each full minute."""
WANTED = 6
WAIT_SECONDS = 900


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch") / "project"
    make_quick_project(folder)
    remote = folder.parent / "project.git"
    run(["git", "init", "--quiet", "--bare", str(remote)], folder)
    run(["git", "remote", "add", "origin", str(remote)], folder)
    run(["dvc", "remote", "add", "--default", "store", str(folder.parent / "store")], folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["runs"] = {"push": "origin"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run([*COMMIT, "-qam", "Push to origin"], folder)
    return folder


@pytest.fixture(scope="module")
def scheduled(api: SyncPrefectClient, project: Path) -> list[FlowRun]:
    """WANTED completed runs of the scheduler, after one by hand that trains: the others take less than the minute between them."""
    (first,) = ended(api, [start(api, "reelnest-train/by-hand")])
    assert first.state is not None
    assert first.state.is_completed(), first.state.message
    found = [api.read_deployment_by_name(f"reelnest-train/{name}").id for name in DEPLOYMENTS]
    for deployment in found:
        api.create_deployment_schedules(deployment, [(CronSchedule(cron="* * * * *"), True)])
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        assert time.monotonic() < deadline
        runs = api.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=found)),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED]))),
        )
        made = [one for one in runs if one.auto_scheduled]
        if len(made) >= WANTED:
            break
        time.sleep(2)
    for deployment in found:
        for schedule in api.read_deployment_schedules(deployment):
            api.update_deployment_schedule(deployment, schedule.id, active=False)
    return made


@pytest.fixture(scope="module")
def kept(scheduled: list[FlowRun], project: Path) -> list[Run]:
    by_flow_run = {one.flow_run: one for one in saved_runs(project)}
    return [by_flow_run[str(one.id)] for one in scheduled]


def test_the_scheduler_made_them_in_one_millisecond_and_two_deployments_in_the_same_second(scheduled: list[FlowRun]) -> None:
    assert max(Counter(one.id.hex[:12] for one in scheduled).values()) > 1
    due = Counter(one.expected_start_time for one in scheduled)
    assert max(due.values()) == len(DEPLOYMENTS)


def test_each_run_has_a_ref_and_a_record_of_its_own(kept: list[Run], scheduled: list[FlowRun], project: Path) -> None:
    assert len({one.ref for one in kept}) == len({one.commit for one in kept}) == len(scheduled)
    records = [json.loads(run(["git", "show", f"{one.ref}:run.json"], project)) for one in kept]
    assert [record["name"] for record in records] == [one.name for one in scheduled]
    for one in kept:
        assert run(["git", "log", "--walk-reflogs", "--format=%H", one.ref], project).split() in ([], [one.commit])


def test_each_run_has_nothing_to_do_in_a_fresh_clone(kept: list[Run], project: Path, tmp_path: Path) -> None:
    for one in kept:
        clone = tmp_path / one.id
        run(["git", "clone", "--quiet", str(project.parent / "project.git"), str(clone)], tmp_path)
        run(["git", "fetch", "--quiet", "origin", f"{one.ref}:{one.ref}"], clone)
        run(["git", "switch", "--quiet", "--detach", one.ref], clone)
        run(["dvc", "pull", "--run-cache"], clone)
        assert "Running stage" not in run(["dvc", "repro"], clone)
