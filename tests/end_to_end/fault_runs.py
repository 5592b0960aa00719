"""Deployments' runs with one fault each, and what has to hold all the same.

Usage: `python -m tests.end_to_end.fault_runs DIR --runs 50 [--cluster] [--faults cancel-ui,worker-kill] [--seed 0]`, as root (small disks
are mounted), where there is a C compiler (for a clock that can be set). With `--cluster`, trainings and evaluations are jobs on simulated
SLURM nodes, and the faults are those of `cluster_faults.py`. Prints a line for each run and a table; the exit status is 1 where anything
was violated.

A run is made to do a stage's work anew (what DVC remembers of the stage is removed), the fault happens while that stage is at work, and
then:

- no process of the run is left a minute later, no lock is held, and no worktree is left after the next run;
- Prefect comes to say what became of the run;
- the next run with the same settings ends Completed, does no stage again that had finished, and its metrics and weights are those of a
  run without fault.

A run whose worker is gone is marked as crashed by the deployment's automation, after five minutes without a sign of life. To be through
in an hour, the series sets it to `SILENCE` on its own server.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings

from reelnest.commands.runs import Run, saved_runs
from reelnest.git import git
from tasks.process.locks import lock_or_none
from tasks.process.runner import environment
from tasks.services import automations
from tasks.workspaces.run_folders import RUNS
from tests.end_to_end.cluster_faults import CLUSTER_FAULTS, DISK_SIZE
from tests.end_to_end.faults import FAULTS, Scene, large_disk, small_disk
from tests.end_to_end.supervised_services import Services, supervised_services, wait_until
from tests.support.running_services import ended
from tests.support.simulated_slurm import Cluster, simulated_cluster
from tests.support.small_project import make_quick_project, run_on_two_nodes
from tests.support.small_project import run as command

TWINS = {"train": 6, "validation": 1, "test": 1}
SILENCE = timedelta(seconds=75)
"""Prefect's shortest pause between heartbeats is 30 s."""
GONE_SECONDS = 60
END_SECONDS = 400
BY_HAND = "reelnest-train/by-hand"
Settings = dict[str, Any]
SETTINGS: tuple[Settings, ...] = ({"train.epochs": 3}, {"train.epochs": 3, "train.seed": 1})
LOAD = "import sys, mlflow, pandas; mlflow.pyfunc.load_model(sys.argv[1]).predict(pandas.DataFrame({'text': ['a red star']}))"
REMADE_BY = {"register": "evaluate"}
"""A model is registered where a stage ran: the stage that has to work for it."""


@dataclass
class Report:
    """What one run came to."""

    fault: str
    stage: str
    state: str = ""
    message: str = ""
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0
    next_done: str = ""

    def __str__(self) -> str:
        verdict = "; ".join(self.violations) or "held"
        return f"{self.fault} during {self.stage}: {self.state}, then {self.next_done} ({self.seconds:.0f} s): {verdict}"


class Series:
    """Runs of one project with its services."""

    def __init__(self, services: Services, api: SyncPrefectClient, cluster: Cluster | None = None) -> None:
        self.services, self.api, self.project, self.cluster = services, api, services.project, cluster
        self._references: dict[str, Run] = {}

    def start(self, settings: Settings, environment: Mapping[str, str] | None = None) -> UUID:
        deployment = self.api.read_deployment_by_name(BY_HAND).id
        variables = {"env": dict(environment)} if environment else None
        return self.api.create_flow_run_from_deployment(deployment, parameters={"settings": settings}, job_variables=variables).id

    def completed(self, settings: Settings) -> Run:
        """What is kept of a run without fault."""
        (found,) = ended(self.api, [self.start(settings)])
        assert found.state is not None
        assert found.state.is_completed(), f"{found.state_name}: {found.state.message}"
        return next(run for run in saved_runs(self.project) if run.flow_run == str(found.id))

    def reference(self, settings: Settings) -> Run:
        """The first run with these settings, to which nothing happened."""
        key = repr(settings)
        if key not in self._references:
            self._references[key] = self.completed(settings)
        return self._references[key]

    def finished_stages(self, flow_run: UUID) -> set[str]:
        tasks = self.api.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))
        return {task.name.rpartition("-")[0] for task in tasks if task.state is not None and task.state.is_completed()}

    def forget(self, stage: str, settings: Settings) -> None:
        """Lets a stage work again in a run with these settings, as if it never had: DVC's record, kept runs and the stage's own store."""
        for record in (self.project / ".dvc/cache/runs").glob("*/*/*"):
            if yaml.safe_load(record.read_text(encoding="utf-8"))["cmd"] == f"reelnest {stage}":
                shutil.rmtree(record.parent)
        for kept in saved_runs(self.project):
            if kept.settings == settings:
                git(self.project, "update-ref", "-d", kept.ref)
        store = {"preprocess": "frames", "train": "checkpoints"}.get(stage)
        if store is not None:
            shutil.rmtree(self.project / "work" / store)

    def with_fault(self, name: str, stage: str, settings: Settings, chance: random.Random) -> Report:
        """One run with a fault, and the next one."""
        report, fault = Report(name, stage), (FAULTS | CLUSTER_FAULTS)[name]
        reference = self.reference(settings)
        self.forget(REMADE_BY.get(stage, stage), settings)
        started = time.monotonic()
        scene = Scene(self.services, self.api, stage, chance, cluster=self.cluster)
        fault.before(scene)
        scene.run = self.api.read_flow_run(self.start(settings, fault.environment(scene)))
        try:
            self._wait_for_work(scene)
            time.sleep(chance.uniform(0, 4))
            fault.strike(scene)
            if fault.is_end:
                self._wait_for_last_process(scene, report)
            wait_until(lambda: self._has_ended(scene), f"the run's end in Prefect ({name})", END_SECONDS)
        except (TimeoutError, AssertionError) as error:
            report.violations.append(str(error))
        finally:
            fault.heal(scene)
        if not fault.is_end and not fault.leaves_job:
            self._wait_for_last_process(scene, report)
        # What Prefect says in the end: a live run whose heartbeats are an hour old is Crashed until it is Completed.
        found = self.api.read_flow_run(scene.run.id)
        report.state, report.message = str(found.state_name), str(found.state and found.state.message)
        if report.state not in fault.ends:
            report.violations.append(f"Prefect says {report.state} ({report.message}), not {' or '.join(fault.ends)}")
        if not fault.leaves_job:
            report.violations += self._held_locks()
        self._check_next(scene, settings, reference, report)
        if self.cluster is not None and not self.cluster.is_idle():
            report.violations.append(f"jobs {self.cluster.jobs()} and {len(self.cluster.processes())} processes of jobs are left")
        report.seconds = time.monotonic() - started
        return report

    def _wait_for_work(self, scene: Scene) -> None:
        wait_until(lambda: scene.stage_processes() or self._has_ended(scene), f"work on {scene.stage}")
        if scene.stage == "train" and scene.chance.random() < 0.7:
            steps = scene.worktree / "work/progress.json"
            wait_until(lambda: steps.exists() or not scene.stage_processes() or self._has_ended(scene), "the first step")

    def _has_ended(self, scene: Scene) -> bool:
        assert scene.run is not None
        state = self.api.read_flow_run(scene.run.id).state
        return state is not None and state.is_final()

    def _wait_for_last_process(self, scene: Scene, report: Report) -> None:
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not scene.processes(), "no process", GONE_SECONDS)
        if left := scene.processes():
            report.violations.append(f"{len(left)} processes are left: {[' '.join(one.cmdline())[-80:] for one in left]}")

    def _held_locks(self) -> list[str]:
        paths = [*(self.project / "work/locks").glob("*.lock"), *(self.project / RUNS).glob("*.lock")]
        return [f"{path.name} is held" for path in paths if not _is_free(path)]

    def _check_next(self, scene: Scene, settings: Settings, reference: Run, report: Report) -> None:
        assert scene.run is not None
        finished = self.finished_stages(scene.run.id)
        try:
            following = self.completed(settings)
        except AssertionError as error:
            report.violations.append(f"the next run: {error}")
            return
        report.next_done = following.done
        did = dict(part.split() for part in following.done.split(", "))
        report.violations += [f"{stage} had finished and ran again" for stage in finished & did.keys() if did[stage] == "ran"]
        if (following.metrics, following.validation) != (reference.metrics, reference.validation):
            report.violations.append("the next run's metrics differ from those of a run without fault")
        if following.registration.model_hash != reference.registration.model_hash:
            report.violations.append("the next run's weights differ from those of a run without fault")
        report.violations += [f"{folder.name} is left in {RUNS}" for folder in (self.project / RUNS).glob("*/")]
        trees = command(["git", "worktree", "list", "--porcelain"], self.project).count("worktree ")
        if trees != 1:
            report.violations.append(f"git knows {trees} worktrees")
        try:
            command(["dvc", "status"], self.project)
        except AssertionError as error:
            report.violations.append(f"dvc status in the checkout: {error}")

    def check_models(self) -> list[str]:
        """Loads each version that the runs registered."""
        violations = []
        for version in sorted({run.registration.version for run in saved_runs(self.project)}):
            done = subprocess.run(
                [sys.executable, "-c", LOAD, f"models:/reelnest/{version}"],
                env=os.environ | self.services.client,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                violations.append(f"version {version} cannot be loaded: {done.stderr[-500:]}")
        return violations


def _is_free(path: Path) -> bool:
    with lock_or_none(path) as lock:
        return lock is not None


@contextlib.contextmanager
def series_in(folder: Path, cluster: Cluster | None = None) -> Iterator[Series]:
    """A series in a new project, with its services. With a cluster, `work/` is a small disk that its nodes share with the flow."""
    project = folder / "project"
    with contextlib.ExitStack() as stack:
        if cluster is not None:
            small_disk(project / "work", DISK_SIZE)
            stack.callback(large_disk, project / "work")
        make_quick_project(project, TWINS)
        if cluster is not None:
            run_on_two_nodes(project)
        services, api = stack.enter_context(supervised_services(project))
        with temporary_settings({PREFECT_API_URL: f"{services.prefect}/api"}):
            automations.keep(automations.on_death(silence=SILENCE))
        yield Series(services, api, cluster)


@contextlib.contextmanager
def cluster_in_environment() -> Iterator[Cluster]:
    """A simulated cluster, which this process and those that it starts use."""
    with simulated_cluster() as cluster, environment(cluster.environment):
        yield cluster


def drawn(names: list[str], runs: int, chance: random.Random) -> list[str]:
    """Each at least as often as the others, but once, in any order."""
    whole, rest = divmod(runs, len(names))
    found = names * whole + chance.sample(names, rest)
    chance.shuffle(found)
    return found


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--faults", type=lambda text: text.split(","), help=", ".join([*FAULTS, "and with --cluster", *CLUSTER_FAULTS]))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    faults = CLUSTER_FAULTS if chosen.cluster else FAULTS
    names = chosen.faults or list(faults)
    if unknown := set(names) - set(faults):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}. There are {', '.join(faults)}")
    chance = random.Random(chosen.seed)
    started, reports = time.monotonic(), []
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(cluster_in_environment()) if chosen.cluster else None
        series = stack.enter_context(series_in(chosen.folder.resolve(), cluster))
        for number, name in enumerate(drawn(names, chosen.runs, chance), 1):
            reports.append(series.with_fault(name, chance.choice(faults[name].stages), chance.choice(SETTINGS), chance))
            sys.stdout.write(f"{number:>3} {reports[-1]}\n")
            sys.stdout.flush()
        models = series.check_models()
    sys.stdout.write(f"\n{'fault':<22}{'runs':>5}{'held':>5}  ended as\n")
    for name in sorted({report.fault for report in reports}):
        found = [report for report in reports if report.fault == name]
        states = ", ".join(sorted({report.state for report in found}))
        sys.stdout.write(f"{name:<22}{len(found):>5}{sum(not report.violations for report in found):>5}  {states}\n")
    bad = sum(bool(report.violations) for report in reports)
    minutes = (time.monotonic() - started) / 60
    sys.stdout.write(f"\n{len(reports)} runs in {minutes:.0f} minutes, {bad} with a violation\n" + "".join(f"{line}\n" for line in models))
    return bool(bad or models)


if __name__ == "__main__":
    sys.exit(main())
