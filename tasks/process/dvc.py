"""Asks DVC which stages are stale, and runs a stage. Only DVC decides what is stale."""

import hashlib
import json
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from reelnest.errors import ConfigError
from reelnest.settings import launch_uses_cpu, load_params
from reelnest.stages.workspace import Workspace
from tasks.process.grace import grace_seconds
from tasks.process.runner import TAIL_LINES, CommandError, is_signal, output_of, run

Outcome = Literal["ran", "restored", "unchanged"]
"""ran: the stage's command ran; restored: DVC took its outputs from an earlier run with the same inputs; unchanged: it was not stale."""

DVC = (sys.executable, "-m", "dvc")
STATUS_TIMEOUT_SECONDS = 3600.0
"""Long enough to hash terabytes of new videos, but not unlimited, in case a lock is never released."""

GPU_STAGES = ("train", "evaluate")
RESUMABLE_STATUS = os.EX_TEMPFAIL
"""A stage that ends with this status asks to be started again."""

# Lines of DVC that say nothing new: a stage's command, its lock file, hints after each stage, and warnings about files that may be empty.
CHATTER = (
    "> ",
    "Generating lock file",
    "Updating lock file",
    "To track the changes with git",
    "\tgit add ",
    "To enable auto staging",
    "\tdvc config core.autostage",
    "Use `dvc push`",
    "WARNING: 'reports/quarantine.jsonl' is empty",
    "WARNING: 'reports/behaviour.jsonl' is empty",
)
ERROR = "reelnest: error: "
"""Prefix of a stage's error message."""
COMMAND_FAILED = re.compile(r"^ERROR: failed to reproduce .* exited with (-?\d+)$")
"""DVC's last line about a failed command, with the command's status, or -n for signal n. DVC itself ends with another status."""


class StageError(Exception):
    """A stage failed. `interrupted`: it was stopped from outside or asked to be started again, so a retry may succeed."""

    def __init__(self, stage: str, text: str, *, interrupted: bool) -> None:
        super().__init__(f"Stage {stage} failed. {text}")
        self.stage = stage
        self.interrupted = interrupted


def changed_stages(folder: Path) -> dict[str, Any]:
    """Returns the stages (and `.dvc` files) whose inputs, outputs or settings differ from `dvc.lock`, with DVC's status of each.

    Empty if nothing is stale. A stage after a stale one is included only if it is stale itself.
    """
    lines = output_of([*DVC, "--wait-for-lock", "status", "--json"], folder=folder, timeout_seconds=STATUS_TIMEOUT_SECONDS)
    # Warnings are in the same stream; the status is the line with JSON.
    status = next((line for line in reversed(lines) if line.startswith("{")), None)
    if status is None:
        raise CommandError([*DVC, "status", "--json"], 0, lines)
    changed: dict[str, Any] = json.loads(status)
    return changed


def reproduce(stage: str, folder: Path, *, on_line: Callable[[str], None], on_tick: Callable[[], None] | None = None) -> Outcome:
    """Runs a stage if it is stale, by `dvc repro --single-item`, and returns the outcome. Raises StageError.

    `--wait-for-lock` is needed because DVC takes the repository's lock again after the stage's command: if another DVC command held it at
    that moment, the record of a finished training would be lost.
    """
    outcome: Outcome = "unchanged"

    def take(line: str) -> None:
        nonlocal outcome
        if line.startswith((f"Running stage '{stage}'", "Verifying data sources")):
            outcome = "ran"
        elif line.startswith(f"Stage '{stage}' is cached"):
            outcome = "restored"
        if line and not line.startswith(CHATTER):
            on_line(line)

    run_stage(stage, [*DVC, "--wait-for-lock", "repro", "--single-item", stage], folder, on_line=take, on_tick=on_tick)
    return outcome


def run_stage(
    stage: str, argv: Sequence[str], folder: Path, *, on_line: Callable[[str], None], on_tick: Callable[[], None] | None = None
) -> None:
    """Runs a stage's command. Raises StageError with the stage's error message.

    `on_line` does not get DVC's line about the failed command, since the error is raised.
    """
    command_status: int | None = None
    printed: deque[str] = deque(maxlen=TAIL_LINES)

    def take(line: str) -> None:
        nonlocal command_status
        if failed := COMMAND_FAILED.search(line):
            command_status = int(failed[1])
        elif command_status is None:
            printed.append(line)
            on_line(line)

    try:
        run(argv, on_line=take, on_tick=on_tick, folder=folder, environment=flow_run_environment(), grace_seconds=grace_seconds(folder))
    except CommandError as error:
        status = error.status if command_status is None else command_status
        message = error_message(printed) or str(CommandError(argv, error.status, printed))
        raise StageError(stage, message, interrupted=is_interruption(status)) from error


def error_message(lines: Iterable[str]) -> str | None:
    """Returns the text after `reelnest: error:` in a stage's output; None if there is none."""
    text = "\n".join(lines)
    at = text.rfind(ERROR)
    return text[at + len(ERROR) :].strip() if at >= 0 else None


def flow_run_environment() -> dict[str, str]:
    """Returns the variables that name the flow run, which a stage records with its outputs; none outside of a flow run."""
    from prefect.runtime import flow_run  # takes a second to import, which a mistake should not have to wait for
    from prefect.settings import PREFECT_UI_URL

    if flow_run.id is None:
        return {}
    page = flow_run.ui_url if PREFECT_UI_URL.value() else ""
    return {"REELNEST_FLOW_RUN_ID": str(flow_run.id), "REELNEST_FLOW_RUN_URL": str(page)}


def is_interruption(status: int) -> bool:
    """Returns whether a status means that the process was killed or asks to be started again."""
    return status == RESUMABLE_STATUS or status < 0 or is_signal(status)


def stage_key(stage: str, folder: Path) -> str:
    """Returns a hash of a stage with its inputs and settings: runs with the same key have the same outputs.

    It covers the command and what `dvc.lock` would record of the dependencies and settings; the stages before it must be done. Empty if an
    input is missing, which running the stage will report.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        try:
            loaded = repo.stage.load_one(name=stage)
            loaded.save_deps()
        except DvcException:
            return ""
        inputs = {"cmd": loaded.cmd, "deps": [[str(dep.def_path), dep.hash_info.value] for dep in loaded.deps]}
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_lock(stage: str, workspace: Workspace) -> Path:
    """Returns the lock that a run holds while a stage runs. A second run with the same inputs waits and takes the outputs from the cache.

    All preprocessing shares one lock, since it shares `work/frames/`, from which each run removes the frames that it does not need.
    """
    key = "" if stage == "preprocess" else f"-{stage_key(stage, workspace.root)}"
    return workspace.work / "locks" / f"{stage}{key}.lock"


def gpu_lock(stage: str, workspace: Workspace) -> Path | None:
    """Returns the lock that a run holds while a stage uses this machine's GPUs; None for a stage that does not, and if runs may share them.

    A cluster's scheduler shares its GPUs out by itself.
    """
    try:
        params = load_params(workspace.params)
    except ConfigError:  # the stage itself reports it
        return None
    launch = params.launch
    if stage not in GPU_STAGES or launch.backend != "local" or launch.share_gpus or launch_uses_cpu(params, workspace.params):
        return None
    return workspace.work / "locks" / f"gpus-{socket.gethostname()}.lock"


def due(stage: str, changed: Mapping[str, Any], before: Collection[Outcome]) -> bool:
    """Returns whether a stage must run: it is stale, or a stage before it has new outputs."""
    return stage in changed or any(outcome != "unchanged" for outcome in before)
