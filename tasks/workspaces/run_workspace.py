"""A git worktree for each run of a deployment, so that simultaneous runs do not affect each other or the checkout.

1. The worktree is created at the deployment's revision under the checkout's `work/runs/`, and the run's settings are written to its
   `params.yaml`.
2. It shares DVC's cache with the checkout, from which `data/` and finished stages come as links or copies, and the folders of `work/` whose
   files are named by a hash of their inputs. So a killed run can be started again without its worktree, and its training resumes from its
   checkpoint.
3. A completed run is saved as a commit under its own ref (`reelnest.commands.runs`). No branch, index or HEAD changes.
4. The worktree is removed. The worktree of a killed run is removed by the next run (`run_folders.py`).
"""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reelnest.artifacts.candidate_run import CandidateRun
from reelnest.artifacts.registration_report import RegistrationReport
from reelnest.artifacts.training_report import TrainingReport
from reelnest.commands.runs import RECORD, Run, latest_registration, saved_runs
from reelnest.errors import RunError
from reelnest.git import git
from reelnest.launch.usage import read_usage
from reelnest.settings import Runs, load_params
from reelnest.stages.workspace import Workspace
from reelnest.yaml_files import load_yaml
from tasks.process import dvc_cache
from tasks.process.locks import lock_or_none, waiting_lock
from tasks.process.runner import CommandError, environment, setting
from tasks.workspaces import pushing
from tasks.workspaces.params_text import ParamsText
from tasks.workspaces.revisions import check_checkout, commit_of, params_at
from tasks.workspaces.run_folders import RUNS, lock_file, remove, remove_orphaned_workspaces, run_id

GATE = Path("work/locks/gate.lock")
"""Lock for the start of a run and for cleaning DVC's cache, so that files which a starting run has just added are not removed."""
LOOK_SECONDS = 3.0
SHARED = ("checkpoints", "frames", "tensorboard", "locks", "errors", "jobs")
"""Shared folders of `work/`. The others (progress, cached features of a frozen tower) belong to one worktree each."""
SAVED = ("params.yaml", "dvc.yaml", "dvc.lock", "data.dvc", RECORD)
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class RunWorkspace:
    """The worktree of a run while it runs."""

    checkout: Path
    folder: Path
    run: Run

    def check(self) -> None:
        """Raises RunError if the worktree was removed during the run."""
        if not (self.folder / ".git").exists():
            raise RunError(
                f"The worktree {self.folder} was removed while its run was active. Start the run again: finished stages are restored from"
                " DVC's cache, and a training resumes from its checkpoint."
            )

    def save(self, done: str, *, registered: bool = True) -> Run:
        """Creates the run's commit and ref. (If the run did not register, `reports/registration.json` is of an earlier run.)

        Refs are created and never moved: if the name is taken, the run is saved as `<id>-2` and so on.
        """
        reports = Workspace(self.folder).reports
        training = TrainingReport.read_if_there(reports)
        run = replace(
            self.run,
            ended=_now(),
            done=done,
            metrics=_metrics(reports / "metrics.json"),
            validation={} if training is None else training.best_metrics,
            registration=RegistrationReport.read_if_there(reports) if registered else None,
            usage=read_usage(self.folder),
            mlflow_run=CandidateRun.read(Workspace(self.folder).candidate).run_id,
        )
        for number in itertools.count(1):
            named = self._committed(run if number == 1 else replace(run, id=f"{run.id}-{number}"))
            try:
                pushing.create_refs(self.folder, named)
            except RunError:
                if not self._is_taken(named):
                    raise
            else:
                return named
        raise AssertionError  # the numbers do not end

    def owner(self) -> str | None:
        """Returns the flow run whose results the ref with this run's name has; None if it is missing or unreadable."""
        with contextlib.suppress(RunError, ValueError):
            return str(json.loads(git(self.folder, "show", f"{self.run.ref}:{RECORD}")).get("flow_run"))
        return None

    def log_usage(self, run: Run) -> None:
        """Logs what the run used to the MLflow run of its model. Raises ReelnestError if MLflow is not available."""
        if run.usage and run.mlflow_run is not None:
            from reelnest.registry.usage_log import log_usage  # imports MLflow, which a run without launches does not need

            log_usage(load_params(self.folder / "params.yaml"), run.mlflow_run, run.usage)

    def fetch(self) -> list[str]:
        """Fetches the outputs of stages that runs on other machines have finished with the same inputs, if runs are pushed.

        Returns the stages' names. Raises RunError if the remote is unreachable; the run can make them again.
        """
        runs = _runs_section(self.folder)
        if runs.push is None or not (runs.push_outputs or dvc_cache.has_remote(self.folder)):
            return []
        return dvc_cache.fetch_finished(self.folder, runs.push_outputs)

    def push(self) -> list[str]:
        """Pushes this run and earlier unpushed ones, if the settings name a remote. Returns their ids.

        Raises RunError or CommandError if a remote is unreachable or rejects the push. The run stays saved here.
        """
        return pushing.push(self.folder, _runs_section(self.folder))

    def _committed(self, run: Run) -> Run:
        run.write(self.folder)
        git(self.folder, "add", "--force", "--", *(name for name in SAVED if (self.folder / name).is_file()))
        tree = git(self.folder, "write-tree").strip()
        message = f"Run {run.name}: {run.done}\n\nAt {run.base}, {json.dumps(run.settings)}."
        return replace(run, commit=git(self.folder, "commit-tree", tree, "-p", "HEAD", "-m", message).strip())

    def _is_taken(self, run: Run) -> bool:
        return bool(git(self.folder, "for-each-ref", run.ref, f"{pushing.UNPUSHED}{run.id}").strip())


@contextlib.contextmanager
def run_workspace(checkout: Path, flow_run: str, name: str, revision: str, settings: Mapping[str, Any]) -> Iterator[RunWorkspace]:
    """Yields a worktree, which is the current folder for the block and is removed after it. `flow_run` is the full id.

    Raises RunError if a revision, setting or remote does not exist, the data is not available, or the run is already active.
    """
    checkout, own_id = checkout.resolve(), run_id(flow_run)
    check_checkout(checkout)
    remove_orphaned_workspaces(checkout)
    # Another run may briefly check this folder's lock or remove the folder.
    with lock_or_none(lock_file(checkout, own_id), LOOK_SECONDS) as lock:
        if lock is None:
            raise RunError(f"The run {own_id} is already active in {checkout / RUNS / own_id}.")
        folder = checkout / RUNS / own_id
        base = commit_of(checkout, revision)
        params = params_at(checkout, base)
        params.change_all(settings)
        try:
            with waiting_lock(checkout / GATE, lambda: None):
                git(checkout, "worktree", "add", "--quiet", "--detach", str(folder), base)
            _check_names_data(folder, revision)
            _set(folder, settings, params)
            pushing.check_remotes(folder, _runs_section(folder))
            _share(checkout, folder)
            runs = saved_runs(checkout)
            same = [run for run in runs if (run.base, run.settings) == (base, dict(settings))]
            _check_out_data(folder, revision, like=same[0] if same else None)
            previous = latest_registration(same) or latest_registration(runs)
            if previous is not None:
                # So that an already registered model is recognised without MLflow.
                previous.write(Workspace(folder).reports)
            data = git(folder, "rev-parse", "HEAD:data.dvc").strip()
            run = Run(own_id, name, revision, base, dict(settings), _now(), "", "", data, flow_run=flow_run)
            with environment(_environment(checkout, folder)), contextlib.chdir(folder):
                yield RunWorkspace(checkout, folder, run)
        finally:
            remove(checkout, folder)


def _set(folder: Path, settings: Mapping[str, Any], params: ParamsText) -> None:
    """Writes the changed settings into `params.yaml`, keeps its comments, and commits them, so that the lineage's commit includes them."""
    if not settings:
        return
    (folder / "params.yaml").write_text(params.text(), encoding="utf-8")
    changed = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
    git(folder, "commit", "--quiet", "--allow-empty", "--message", f"Settings of a run: {changed}", "--", "params.yaml")


def _share(checkout: Path, folder: Path) -> None:
    (folder / "work").mkdir()
    for name in SHARED:
        (checkout / "work" / name).mkdir(parents=True, exist_ok=True)
        (folder / "work" / name).symlink_to(checkout / "work" / name, target_is_directory=True)
    dvc_cache.share_cache(checkout, folder)


def _check_names_data(folder: Path, revision: str) -> None:
    if not (folder / "data.dvc").is_file():
        raise RunError(
            f"revision: '{revision}' has no data.dvc, which names the data to use. Run `dvc add data` and commit data.dvc there."
        )


def _check_out_data(folder: Path, revision: str, like: Run | None) -> None:
    """Checks out `data/`, and from the cache the outputs of `like`, an earlier run at the same commit with the same settings.

    DVC then finds no stale stages if nothing has changed. Outputs that are missing from the cache are made again.
    """
    try:
        if like is not None:
            with contextlib.suppress(CommandError):
                (folder / "dvc.lock").write_text(git(folder, "show", f"{like.commit}:dvc.lock"), encoding="utf-8")
                dvc_cache.checkout_all(folder)
                return
        dvc_cache.checkout("data.dvc", folder)
    except CommandError as error:
        raise RunError(
            f"The data of revision '{revision}' (its data.dvc) is not in DVC's cache{' or remote' if dvc_cache.has_remote(folder) else ''}."
            f" On the machine that has it, run `dvc add data` (and `dvc push`), and commit data.dvc. {error}"
        ) from error


def _environment(checkout: Path, folder: Path) -> dict[str, str]:
    """Returns the stages' environment: the code of the worktree, and the MLflow store of the checkout."""
    variables = {"PYTHONPATH": str(folder / "src")}
    address = _tracking_uri(folder)
    if setting("MLFLOW_TRACKING_URI") is None and address.startswith(SQLITE):
        variables["MLFLOW_TRACKING_URI"] = f"{SQLITE}{checkout / address.removeprefix(SQLITE)}"
    return variables


def _tracking_uri(folder: Path) -> str:
    return str(_section(folder, "tracking").get("uri", f"{SQLITE}mlflow.db"))


def _runs_section(folder: Path) -> Runs:
    try:
        return Runs.model_validate(_section(folder, "runs"))
    except ValidationError as error:
        raise RunError(f"{folder / 'params.yaml'}: runs: {error}") from error


def _section(folder: Path, name: str) -> dict[str, Any]:
    """Returns one section of a run's settings; the others may be those of another version."""
    params = load_yaml((folder / "params.yaml").read_text(encoding="utf-8"))
    return params.get(name) or {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _metrics(path: Path) -> dict[str, dict[str, float]]:
    """Returns the headline metrics of an evaluation, by metric and dim; empty if there is none."""
    try:
        metrics: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return metrics
