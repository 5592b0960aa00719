"""DVC's cache and remotes: sharing the cache between checkouts, getting data out of it, pushing and cleaning it."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from reelnest.errors import RunError
from tasks.process.dvc import DVC
from tasks.process.runner import CommandError, output_of

FILLED_SECONDS = 5.0
"""DVC fills a new folder of its run cache within a moment: one that is still empty after this time stays so."""


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


def checkout(target: str, folder: Path) -> None:
    """Puts what a `.dvc` file names in place: from the cache, or else from the remote. Raises CommandError."""
    try:
        output_of([*DVC, "--wait-for-lock", "checkout", target], folder=folder)
    except CommandError:
        if not has_remote(folder):
            raise
        output_of([*DVC, "--wait-for-lock", "pull", target], folder=folder)


def checkout_all(folder: Path) -> None:
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
            for store, objects in repo.used_objs(revs=list(commits)).items():
                used.setdefault(store, set()).update(objects)
        cache = repo.cache.local
        return int(gc(cache, set().union(*used.values()), dry=dry) or 0)
