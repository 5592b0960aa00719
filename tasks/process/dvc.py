"""What DVC is asked: which stages are stale, and to run one of them. DVC decides freshness; nothing here keeps a second opinion."""

import contextlib
import hashlib
import json
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL

from reelnest.errors import RunError
from tasks.process.runner import TAIL_LINES, CommandError, is_signal, output_of, run

Outcome = Literal["ran", "restored", "unchanged"]
"""A stage's command ran; or DVC took its outputs from an earlier run with the same inputs; or there was nothing to do."""

DVC = (sys.executable, "-m", "dvc")
STATUS_TIMEOUT_SECONDS = 3600.0
"""Hashing terabytes of new videos takes a while; a lock that is never given back should not take for ever."""

FILLED_SECONDS = 5.0
"""After which a record's folder that is still empty will stay so: DVC fills it in the next moment."""

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

# How the programs between us and a worker tell the status that they saw: DVC, torch's elastic launcher, accelerate.
STATUS_FORMS = (
    re.compile(r"exited with (-?\d+)$"),
    re.compile(r"\bexitcode\s*:\s*(-?\d+)\b"),
    re.compile(r"returned non-zero exit status (-?\d+)"),
)
SIGNAL_FORM = re.compile(r"died with <Signals\.(SIG\w+): \d+>")


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
    # Warnings go to the same lines; the answer is the one that is JSON.
    answer = next((line for line in reversed(lines) if line.startswith("{")), None)
    if answer is None:
        raise CommandError([*DVC, "status", "--json"], 0, lines)
    found: dict[str, Any] = json.loads(answer)
    return found


def reproduce(stage: str, folder: Path, *, on_line: Callable[[str], None], on_tick: Callable[[], None] | None = None) -> Outcome:
    """Runs one stage where it is stale, as `dvc repro --single-item` does, and says what came of it. Raises StageError.

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
    """Runs a stage's command. Raises StageError, which knows from the command's lines whether another try makes sense.

    The first status that the lines tell is the cause: torch's launcher ends the other workers after it, DVC sees the launcher's alone. The
    lines up to it are the stage's own words; what follows is what the programs in between say about it.
    """
    cause: int | None = None
    own_words: deque[str] = deque(maxlen=TAIL_LINES)

    def take(line: str) -> None:
        nonlocal cause
        if cause is None:
            own_words.append(line)
            cause = told_status(line)
        on_line(line)

    try:
        run(argv, on_line=take, on_tick=on_tick, folder=folder, environment=flow_run_environment())
    except CommandError as error:
        text = str(CommandError(argv, error.status, own_words))
        raise StageError(stage, text, interrupted=is_interruption(error.status if cause is None else cause)) from error


def flow_run_environment() -> dict[str, str]:
    """Tells a stage which flow run it works for, which it records with what it makes; nothing where there is none."""
    if flow_run.id is None:
        return {}
    page = flow_run.ui_url if PREFECT_UI_URL.value() else ""
    return {"REELNEST_FLOW_RUN_ID": str(flow_run.id), "REELNEST_FLOW_RUN_URL": str(page)}


def told_status(line: str) -> int | None:
    """The exit status that a line of DVC's, torch's or accelerate's tells; -n for signal n."""
    for form in STATUS_FORMS:
        if match := form.search(line):
            return int(match[1])
    if match := SIGNAL_FORM.search(line):
        return -signal.Signals[match[1]].value
    return None


def is_interruption(status: int) -> bool:
    """Whether a status means that the process was killed, or that it asks to be started again."""
    return status == RESUMABLE_STATUS or status < 0 or is_signal(status)


def stage_key(stage: str, folder: Path) -> str:
    """A name for "this stage with these inputs and settings": two runs of the same key make the same outputs.

    Of the command and of what `dvc.lock` would say of its dependencies and settings; the stages before it have to be done. Empty where
    DVC cannot tell, since an input is missing: running the stage says which.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        try:
            found = repo.stage.load_one(name=stage)
            found.save_deps()
        except DvcException:
            return ""
        parts = {"cmd": found.cmd, "deps": [[str(dep.def_path), dep.hash_info.value] for dep in found.deps]}
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def share_cache(source: Path, folder: Path) -> None:
    """Lets the checkout in `folder` use the cache and the remotes of the one in `source`, in its own ignored `.dvc/config.local`."""
    from dvc.repo import Repo

    with Repo(str(source)) as repo:
        cache = repo.cache.local_cache_dir
        remotes = {name: dict(remote) for name, remote in repo.config["remote"].items()}
        core = {name: repo.config["core"][name] for name in ("remote",) if repo.config["core"].get(name)}
    _remove_empty_records(Path(cache))
    with Repo(str(folder)) as repo, repo.config.edit("local") as config:
        # A link costs nothing. No symbolic links: a record whose file is a link out of data/ is refused.
        config["cache"].update(dir=cache, type="reflink,hardlink,copy")
        # Hashes of files that go away with the folder; in the shared place they would stay.
        config["core"].update(core, site_cache_dir=str(folder / ".dvc" / "tmp" / "site"))
        config["remote"].update(remotes)


def _remove_empty_records(cache: Path) -> None:
    """Removes folders of the run cache that a DVC made and, since it was killed or had no space, never filled: DVC fails at such a one."""
    for folder in (cache / "runs").glob("*/*"):
        with contextlib.suppress(OSError):  # removed by another run, or filled
            if time.time() - folder.stat().st_mtime > FILLED_SECONDS:
                folder.rmdir()


def bring(target: str, folder: Path) -> None:
    """Puts what a `.dvc` file names in place: from the cache, or else from the remote. Raises CommandError."""
    try:
        output_of([*DVC, "--wait-for-lock", "checkout", target], folder=folder)
    except CommandError:
        if not has_remote(folder):
            raise
        output_of([*DVC, "--wait-for-lock", "pull", target], folder=folder)


def bring_all(folder: Path) -> None:
    """Puts what `.dvc` files and `dvc.lock` name in place, from the cache alone. Raises CommandError where something is missing."""
    output_of([*DVC, "--wait-for-lock", "checkout"], folder=folder)


def has_remote(folder: Path) -> bool:
    """Whether a default remote is set, which `dvc push` uses."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return bool(repo.config["core"].get("remote"))


def remotes(folder: Path) -> list[str]:
    """The names of the remotes that are set."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return sorted(repo.config["remote"])


def push(folder: Path, remote: str | None = None) -> None:
    """Pushes the outputs, and the run cache that says from which inputs they came, to a remote (None: the default). Raises CommandError.

    Without the run cache (remotes over HTTP take none) another machine gets the outputs by `dvc.lock` alone, which is enough.
    """
    to = ["--remote", remote] if remote else []
    try:
        output_of([*DVC, "--wait-for-lock", "push", "--run-cache", *to], folder=folder)
    except CommandError as error:
        if not any("run-cache is not supported" in line.lower() for line in error.tail):
            raise
        output_of([*DVC, "--wait-for-lock", "push", *to], folder=folder)


def push_commits(folder: Path, commits: Sequence[str], remote: str | None = None) -> None:
    """Pushes the outputs that these commits name to a remote (None: the default). Raises RunError.

    `dvc push` has no option for commits that no branch holds; its Python interface has.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    for commit in commits:  # one by one: DVC takes several commits without a branch for one
        try:
            with Repo(str(folder)) as repo:
                repo.push(revs=[commit], workspace=False, remote=remote)
        except (DvcException, OSError) as error:
            raise RunError(f"dvc push: the outputs of commit {commit[:12]} were not pushed: {error}") from error


def collect_garbage(folder: Path, commits: Sequence[str], *, dry: bool) -> int:
    """Removes from the cache what neither the workspace, nor a commit of any branch or tag, nor one of `commits` names. Returns how many.

    `dvc gc` itself would not do: of several commits that no branch holds it can keep one.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.gc import gc

    with Repo(str(folder)) as repo, repo.lock:
        used = repo.used_objs(all_commits=True)
        if commits:
            for store, found in repo.used_objs(revs=list(commits)).items():
                used.setdefault(store, set()).update(found)
        cache = repo.cache.local
        return int(gc(cache, set().union(*used.values()), dry=dry) or 0)


def due(stage: str, changed: Mapping[str, Any], before: Collection[Outcome]) -> bool:
    """Whether a stage has to be looked at: it is stale itself, or a stage before it has made something new."""
    return stage in changed or any(outcome != "unchanged" for outcome in before)
