"""DVC's cache and remotes: shares the cache between checkouts, checks data out of it, pushes it and removes unused files."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from reelnest.errors import RunError
from reelnest.git import git
from tasks.process.dvc import DVC
from tasks.process.runner import CommandError, output_of

FILLED_SECONDS = 5.0
"""A folder of the run cache that is empty for longer will never be filled: DVC fills a new one at once."""
RECORDS = ("*.dvc", "*dvc.lock", "*dvc.yaml")
"""The files, in any folder, that say which files of the cache a commit uses."""


def share_cache(source: Path, folder: Path) -> None:
    """Makes the checkout in `folder` use the cache and remotes of the one in `source`, by its git-ignored `.dvc/config.local`."""
    from dvc.repo import Repo

    with Repo(str(source)) as repo:
        cache = repo.cache.local_cache_dir
        remotes = {name: dict(remote) for name, remote in repo.config["remote"].items()}
        core = {name: repo.config["core"][name] for name in ("remote",) if repo.config["core"].get(name)}
    _remove_empty_records(Path(cache))
    with Repo(str(folder)) as repo, repo.config.edit("local") as config:
        # Links take no space. Not symbolic ones: records whose file is a link out of data/ are rejected.
        config["cache"].update(dir=cache, type="reflink,hardlink,copy")
        # The hashes of this folder's files are deleted with it; in the shared place they would stay.
        config["core"].update(core, site_cache_dir=str(folder / ".dvc" / "tmp" / "site"))
        config["remote"].update(remotes)


def _remove_empty_records(cache: Path) -> None:
    """Removes empty folders of the run cache, which DVC leaves if it is killed or the disk is full, and which make it fail later."""
    for folder in (cache / "runs").glob("*/*"):
        with contextlib.suppress(OSError):  # removed by another run, or filled
            if time.time() - folder.stat().st_mtime > FILLED_SECONDS:
                folder.rmdir()


def checkout(target: str, folder: Path) -> None:
    """Checks out the files of a `.dvc` file from the cache, or else from the remote. Raises CommandError."""
    try:
        output_of([*DVC, "--wait-for-lock", "checkout", target], folder=folder)
    except CommandError:
        if not has_remote(folder):
            raise
        output_of([*DVC, "--wait-for-lock", "pull", target], folder=folder)


def checkout_all(folder: Path) -> None:
    """Checks out the files of all `.dvc` files and of `dvc.lock` from the cache. Raises CommandError if something is missing."""
    output_of([*DVC, "--wait-for-lock", "checkout"], folder=folder)


def has_remote(folder: Path) -> bool:
    """Returns whether a default remote is configured, which `dvc push` uses."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return bool(repo.config["core"].get("remote"))


def remotes(folder: Path) -> list[str]:
    """Returns the names of the configured remotes."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return sorted(repo.config["remote"])


def push(folder: Path, remote: str | None = None) -> None:
    """Pushes the outputs, and the run cache with their inputs, to a remote (None: the default). Raises CommandError.

    Remotes over HTTP accept no run cache. Another machine can then still restore the outputs from `dvc.lock`.
    """
    to = ["--remote", remote] if remote else []
    try:
        output_of([*DVC, "--wait-for-lock", "push", "--run-cache", *to], folder=folder)
    except CommandError as error:
        if not any("run-cache is not supported" in line.lower() for line in error.tail):
            raise
        output_of([*DVC, "--wait-for-lock", "push", *to], folder=folder)


def fetch_finished(folder: Path, remote: str | None = None) -> list[str]:
    """Checks out the outputs of each stage that a run has finished with the same inputs, on any machine. Returns the stages' names.

    The run cache and these outputs come from a remote (None: the default). To DVC, the stages are as stale as before, until it finds
    them finished. Remotes over HTTP have no run cache. Raises RunError.
    """
    from dvc.dependency.base import DependencyDoesNotExistError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.cache import RunCacheNotFoundError, RunCacheNotSupported

    finished = []
    try:
        with Repo(str(folder)) as repo, repo.lock:
            if remote is not None:
                repo.config["core"]["remote"] = remote
            source = repo.cloud.get_remote_odb(None, "fetch --run-cache", hash_name="md5-dos2unix")
            # Without `force`, records that are here are not fetched again.
            repo.stage_cache.transfer(source, repo.cache.legacy, force=False)
            for stage in repo.index.stages:
                if stage.cmd:  # not a `.dvc` file
                    with contextlib.suppress(RunCacheNotFoundError, DependencyDoesNotExistError):
                        repo.stage_cache.restore(stage, pull=True)
                        finished.append(str(stage.addressing))
    except RunCacheNotSupported:
        return []
    except (DvcException, OSError) as error:
        raise RunError(f"dvc fetch --run-cache: {error}") from error
    return finished


def push_commits(folder: Path, commits: Sequence[str], remote: str | None = None) -> None:
    """Pushes the outputs of commits to a remote (None: the default). Raises RunError.

    `dvc push` has no option for commits outside of branches, but DVC's Python interface has.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    for commit in commits:  # one by one: DVC treats several commits outside of branches as one
        try:
            with Repo(str(folder)) as repo:
                repo.push(revs=[commit], workspace=False, remote=remote)
        except (DvcException, OSError) as error:
            raise RunError(f"dvc push: the outputs of commit {commit[:12]} were not pushed: {error}") from error


def collect_garbage(folder: Path, commits: Sequence[str], *, dry: bool) -> int:
    """Removes files from the cache that neither the workspace, nor a commit of a branch or tag, nor one of `commits` uses.

    Returns their number. `dvc gc` cannot do this: of several commits outside of branches it keeps the files of only one.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.gc import gc

    with Repo(str(folder)) as repo, repo.lock, _without_warnings():
        # A commit whose folder this cache lacks, such as data from before the clone, uses no file of it. Without `force`, it is an error.
        used = repo.used_objs(revs=[*commits, *_commits_that_record(folder)], force=True)
        return int(gc(repo.cache.local, set().union(*used.values()), dry=dry) or 0)


def _commits_that_record(folder: Path) -> list[str]:
    """Returns the commits in which a file changed that names cached files. What any other commit uses is used by one of these."""
    return git(folder, "log", "HEAD", "--branches", "--tags", "--remotes", "--full-history", "--format=%H", "--", *RECORDS).split()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences DVC's warning about each output of each commit that has no `dvc.lock`."""
    logger = logging.getLogger("dvc.output")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
