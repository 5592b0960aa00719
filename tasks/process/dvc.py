"""What is asked of DVC: which stages are stale, and to run one of them. DVC decides freshness; no second opinion is kept here."""

import hashlib
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL

from reelnest.stages.workspace import Workspace
from tasks.process.grace import grace_seconds
from tasks.process.runner import TAIL_LINES, CommandError, is_signal, output_of, run

Outcome = Literal["ran", "restored", "unchanged"]
"""A stage's command ran; or DVC took its outputs from an earlier run with the same inputs; or there was nothing to do."""

DVC = (sys.executable, "-m", "dvc")
STATUS_TIMEOUT_SECONDS = 3600.0
"""Hashing terabytes of new videos takes a while; a lock that is never given back should not take for ever."""

RESUMABLE_STATUS = 75
"""EX_TEMPFAIL: a stage that ends with it wants to be started again."""

# Advice for the person at a terminal that DVC prints after each stage; an empty quarantine is good news, and behaviour tests are optional.
CHATTER = (
    "To track the changes with git",
    "\tgit add ",
    "To enable auto staging",
    "\tdvc config core.autostage",
    "Use `dvc push`",
    "WARNING: 'reports/quarantine.jsonl' is empty",
    "WARNING: 'reports/behaviour.jsonl' is empty",
)
ERROR = "reelnest: error: "
"""How a stage's command begins the lines in which it says what was wrong."""
COMMAND_FAILED = re.compile(r"^ERROR: failed to reproduce .* exited with (-?\d+)$")
"""DVC's last line on a stage's command that failed, with its status; -n for signal n. DVC's own status is another one."""


class StageError(Exception):
    """A stage that failed. `interrupted`: it was ended from outside or asked to be started again, so another try may end well."""

    def __init__(self, stage: str, text: str, *, interrupted: bool) -> None:
        super().__init__(f"Stage {stage} failed. {text}")
        self.stage = stage
        self.interrupted = interrupted


def changed_stages(folder: Path) -> dict[str, Any]:
    """Stages (and `.dvc` files) whose inputs, outputs or settings are not those of `dvc.lock`, each with DVC's account of the difference.

    Empty: nothing is stale. A stage after a stale one is listed only where it is stale itself.
    """
    lines = output_of([*DVC, "--wait-for-lock", "status", "--json"], folder=folder, timeout_seconds=STATUS_TIMEOUT_SECONDS)
    # Warnings go to the same stream; the status is the line that is JSON.
    status = next((line for line in reversed(lines) if line.startswith("{")), None)
    if status is None:
        raise CommandError([*DVC, "status", "--json"], 0, lines)
    changed: dict[str, Any] = json.loads(status)
    return changed


def reproduce(stage: str, folder: Path, *, on_line: Callable[[str], None], on_tick: Callable[[], None] | None = None) -> Outcome:
    """Runs one stage where it is stale, as `dvc repro --single-item` does, and returns what came of it. Raises StageError.

    `--wait-for-lock`, because DVC takes the repository's lock again after the stage's command: without it, a second DVC command at that
    moment would lose the record of a finished training.
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
    """Runs a stage's command. Raises StageError with the stage's own error message.

    `on_line` does not get DVC's line on the command that failed: the error is raised.
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
    """Returns what a stage printed after `reelnest: error:`, to its end; None where it printed no error of that form."""
    text = "\n".join(lines)
    at = text.rfind(ERROR)
    return text[at + len(ERROR) :].strip() if at >= 0 else None


def flow_run_environment() -> dict[str, str]:
    """Returns the variables by which a stage knows its flow run, which it records with what it makes; none where there is no flow run."""
    if flow_run.id is None:
        return {}
    page = flow_run.ui_url if PREFECT_UI_URL.value() else ""
    return {"REELNEST_FLOW_RUN_ID": str(flow_run.id), "REELNEST_FLOW_RUN_URL": str(page)}


def is_interruption(status: int) -> bool:
    """Whether a status means that the process was killed, or that it asks to be started again."""
    return status == RESUMABLE_STATUS or status < 0 or is_signal(status)


def stage_key(stage: str, folder: Path) -> str:
    """Returns a name for "this stage with these inputs and settings": two runs of the same key make the same outputs.

    It is a digest of the command and of what `dvc.lock` would hold of its dependencies and settings; the stages before have to be done.
    Empty where an input is missing: running the stage reports which.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        try:
            loaded = repo.stage.load_one(name=stage)
            loaded.save_deps()
        except DvcException:
            return ""
        parts = {"cmd": loaded.cmd, "deps": [[str(dep.def_path), dep.hash_info.value] for dep in loaded.deps]}
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_lock(stage: str, workspace: Workspace) -> Path:
    """Held while a stage runs, so that no two runs make the same outputs at once: the second takes the first one's from the cache.

    All preprocessing shares one lock, since it shares `work/frames/`, from which each run removes what it does not want.
    """
    key = "" if stage == "preprocess" else f"-{stage_key(stage, workspace.root)}"
    return workspace.work / "locks" / f"{stage}{key}.lock"


def due(stage: str, changed: Mapping[str, Any], before: Collection[Outcome]) -> bool:
    """Whether a stage has to be looked at: it is stale itself, or a stage before it has made something new."""
    return stage in changed or any(outcome != "unchanged" for outcome in before)
