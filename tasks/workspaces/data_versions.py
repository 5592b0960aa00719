"""Versions of the data: adds records, compares two versions, pushes the data and notifies the deployments.

Usage: `reelnest data add|diff|push`, which runs `python -m tasks.workspaces.data_versions` in the checkout. DVC stores the bytes, and
`data.dvc` in git names a version. `reelnest.records.merging` and `reelnest.records.changes` merge and compare, without git or DVC.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reelnest.atomic_files import aside_of, exchange_folders, flush_folder, orphans_of
from reelnest.errors import DataError, ReelnestError, RunError, VideoError
from reelnest.git import git, uncommitted
from reelnest.launch.command import prepare_process
from reelnest.records.changes import NOTHING, Changes, Contents, as_json, as_text, compare
from reelnest.records.formats import Video
from reelnest.records.merging import merge
from reelnest.settings import Params, load_params
from reelnest.stages.workspace import Workspace
from reelnest.video.decoder import Decoder, Limits, VideoInfo, in_parallel
from tasks.process import dvc_cache
from tasks.process.dvc import DVC
from tasks.process.locks import lock_or_none
from tasks.process.runner import CommandError, output_of, quieten
from tasks.workspaces.cached_data import Version, dvc_file, is_recorded, version
from tasks.workspaces.revisions import git_remote

LOCK = Path("work/locks/data.lock")
ADDING = "adding"
"""Folder in `work/` with the reports of the last `data add`."""
MOST_DURATIONS = 500
"""How many videos of a version are opened to read their duration: those with the smallest hashes, so the same ones each time."""


def add(
    root: Path,
    params: Params,
    sources: list[Path],
    *,
    replacing: bool,
    committing: bool,
    finish: Callable[[Path], None] = lambda _: None,
) -> str:
    """Merges the sources into `data/`, validates the result and records it. Returns the text to print. `finish` may change the result.

    Raises DataError for conflicts and for data that fails validation, RunError and CommandError for git and DVC. `data/` and `data.dvc`
    are then unchanged.
    """
    workspace = Workspace(root)
    with lock_or_none(root / LOCK) as lock:
        if lock is None:
            raise RunError(f"{root / LOCK}: another `reelnest data add` is running. Try again when it has ended.")
        _check_present(workspace)
        aside = aside_of(workspace.data)
        aside.mkdir()
        try:
            if not merge(sources, workspace.data, aside, replacing=replacing) and not committing and is_recorded(root):
                return _no_changes(root, sources)
            finish(aside)
            before = _version_at_head(root, params)
            _validate(workspace, params, aside)
            flush_folder(aside)
            with _in_place(workspace.data, aside):
                output_of([*DVC, "--wait-for-lock", "add", "data"], folder=root)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        changes = compare(before, version(root, params, (root / "data.dvc").read_text(encoding="utf-8"), "data.dvc").contents)
        if not changes.any and _is_committed(root):
            return _no_changes(root, sources)
        message = f"Data: {changes.headline}\n\n{changes.counts}"
        if not committing:
            return f"{message}\n\nRecorded in data.dvc. To commit it with this message: reelnest data add --commit"
        names = [name for name in ("data.dvc", ".gitignore") if (root / name).is_file()]
        output_of(["git", "add", "--", *names], folder=root)
        output_of(["git", "commit", "--quiet", f"--message={message}", "--", *names], folder=root)
        return message


def diff(root: Path, params: Params, before: str, after: str | None) -> tuple[Changes, dict[str, list[float]]]:
    """Compares the data of two revisions, and returns the changes and the video durations of both sides.

    `after` defaults to the checkout's `data.dvc`. Reads git, DVC's cache and, for missing records, the remote; durations are those of
    videos in the cache. The workspace does not change.
    """
    texts = [dvc_file(root, before), dvc_file(root, after)]
    versions = [version(root, params, text, name) for text, name in zip(texts, (before, after or "data.dvc"), strict=True)]
    lengths = _durations(root, params, versions)
    seconds = {
        side: [lengths[oids] for oids in data.contents.hashes.values() if oids in lengths]
        for side, data in zip(("before", "after"), versions, strict=True)
    }
    return compare(versions[0].contents, versions[1].contents), seconds


def push(root: Path, *, branch: bool) -> str:
    """Pushes data and run cache to DVC's default remote, with `branch` also the git branch, and emits the event of new data."""
    if not dvc_cache.has_remote(root):
        raise RunError(
            "There is no DVC remote to push to. Add one: dvc remote add --default NAME URL, where URL is a folder, ssh://HOST/PATH or"
            " s3://BUCKET/PATH."
        )
    if not _is_committed(root):
        raise RunError("data.dvc has uncommitted changes, and runs use commits. Commit it: reelnest data add --commit")
    dvc_cache.push(root)
    done = ["Pushed to DVC's remote."]
    if branch:
        remote = git_remote(root)
        name = git(root, "branch", "--show-current").strip()
        if remote is None or not name:
            raise RunError("The data was pushed, but no branch: expected a remote `origin` (or a single remote) and a checked-out branch.")
        output_of(["git", "push", "--quiet", remote, name], folder=root)
        done.append(f"Pushed {name} to {remote}.")
    return " ".join([*done, _notify(root)])


def _no_changes(root: Path, sources: list[Path]) -> str:
    """Returns the text for an addition after which data/ is still the version of data.dvc."""
    known = f"all records of {', '.join(map(str, sources))} are in data/ already. " if sources else ""
    if _is_committed(root):
        return f"No changes: {known}data/ is the version of data.dvc at HEAD."
    return f"No changes: {known}data/ is the version of data.dvc, which is not committed. Commit it: reelnest data add --commit"


def _version_at_head(root: Path, params: Params) -> Contents:
    """Returns the data at HEAD, to which a commit message's counts refer; NOTHING if HEAD has no data.dvc."""
    try:
        text = git(root, "show", "HEAD:./data.dvc")
    except RunError:
        return NOTHING
    return version(root, params, text, "HEAD").contents


def _check_present(workspace: Workspace) -> None:
    """Removes folders of a killed `data add`. Raises RunError if `data/` cannot be replaced."""
    left = [path for path in orphans_of(workspace.data) if path.is_dir()]
    if workspace.data.is_symlink():
        raise RunError(f"{workspace.data} is a link; expected a folder in the checkout, which can be replaced atomically.")
    if not workspace.data.is_dir():
        if left:
            raise RunError(f"data/ is missing, but {left[0].name}/ may be a copy of it. Check it, then rename it to data/ or remove it.")
        if (workspace.root / "data.dvc").is_file():
            raise RunError(
                "data/ is missing, but there is a data.dvc. Restore the data with `dvc checkout data.dvc` or `dvc pull data.dvc`."
            )
        workspace.data.mkdir()
    for folder in left:
        shutil.rmtree(folder)


def _validate(workspace: Workspace, params: Params, data: Path) -> None:
    """Runs the validate stage on data in another folder; its reports go to `work/adding/reports/`."""
    from reelnest.stages import validate  # imports Great Expectations, which takes seconds

    scratch = Workspace(workspace.work / ADDING)
    shutil.rmtree(scratch.root, ignore_errors=True)
    scratch.root.mkdir(parents=True)
    scratch.data.symlink_to(data.resolve(), target_is_directory=True)
    try:
        validate.run(scratch, params)
    except DataError as error:
        where = scratch.reports.relative_to(workspace.root)
        raise DataError(f"Nothing was added, because the result fails validation: {str(error).replace('reports/', f'{where}/')}") from error
    finally:
        scratch.data.unlink()


@contextmanager
def _in_place(data: Path, aside: Path) -> Iterator[None]:
    """Exchanges `aside` and `data` for the block, and exchanges them back if the block fails."""
    exchange_folders(aside, data)
    try:
        yield
    except BaseException:
        exchange_folders(aside, data)
        raise


def _is_committed(root: Path) -> bool:
    return not uncommitted(root, "data.dvc")


def _durations(root: Path, params: Params, versions: list[Version]) -> dict[tuple[str, ...], float]:
    """Returns the durations in seconds of videos in the cache, by the hashes of their files. Equal bytes are opened once."""
    from dvc.repo import Repo

    videos: dict[tuple[str, ...], Video] = {}
    for data in versions:
        of_files = {data.contents.hashes[video_id]: video for video_id, video in data.contents.videos.items() if video.path is not None}
        videos.update((oids, of_files[oids]) for oids in sorted(of_files)[:MOST_DURATIONS])
    with Repo(str(root)) as repo:
        cache = repo.cache.local
        cached = [oids for oids in videos if all(oid and Path(cache.oid_to_path(oid)).is_file() for oid in oids)]

        def inspect(decoder: Decoder, oids: tuple[str, ...]) -> VideoInfo:
            return decoder.inspect([Path(cache.oid_to_path(oid)) for oid in oids])

        inspected = list(in_parallel(cached, inspect, Limits.of(params.validation)))
    return {oids: info.seconds for oids, info in inspected if not isinstance(info, VideoError)}


def _notify(root: Path) -> str:
    """Emits the event if Prefect's server responds. Returns the text to print."""
    import httpx
    from prefect.exceptions import PrefectException
    from prefect.settings import get_current_settings

    from tasks.services.prefect_server import flush_queues, is_answering
    from tasks.workspaces import data_arrival

    later = "the deployment reelnest-look-for-data will find the data"
    address = get_current_settings().api.url
    if not address:
        return f"No event was sent, because PREFECT_API_URL is not set; {later}."
    if not is_answering(f"{address}/health"):
        return f"No event was sent, because Prefect's server at {address} does not respond; {later}."
    try:
        payload = data_arrival.arrived(root, "HEAD")
        if payload is None:
            return "No event was sent: a run has used this data, or its event was sent before."
        data_arrival.notify(payload)
        flush_queues()
    except (httpx.HTTPError, PrefectException) as error:
        return f"Prefect's server at {address} did not accept the event ({error}); {later}."
    return f"Sent the event {data_arrival.EVENT}, at {payload['commit'][:12]}."


def _check_repository(root: Path) -> None:
    """Raises RunError outside a git repository, or without DVC in it."""
    git(root, "rev-parse", "--git-dir")
    if not (root / ".dvc").is_dir():
        raise RunError(f"{root} has no .dvc/, so there are no versions of the data. Run this in a clone of the project, or run `dvc init`.")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="reelnest data", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add")
    adding.add_argument("sources", nargs="*", type=Path)
    adding.add_argument("--replace", action="store_true")
    adding.add_argument("--commit", action="store_true")
    comparing = commands.add_parser("diff")
    comparing.add_argument("before")
    comparing.add_argument("after", nargs="?")
    comparing.add_argument("--json", action="store_true")
    commands.add_parser("push").add_argument("--branch", action="store_true")
    arguments = parser.parse_args()
    prepare_process()
    quieten()
    root = Path.cwd()
    try:
        params = load_params(root / "params.yaml")
        _check_repository(root)
        if arguments.command == "add":
            text = add(root, params, arguments.sources, replacing=arguments.replace, committing=arguments.commit)
        elif arguments.command == "push":
            text = push(root, branch=arguments.branch)
        else:
            changes, seconds = diff(root, params, arguments.before, arguments.after)
            text = json.dumps(as_json(changes, seconds), indent=2, ensure_ascii=True) if arguments.json else as_text(changes, seconds)
    except ReelnestError as error:
        sys.stderr.write(f"reelnest: error: {error}\n")
        return error.exit_status
    except CommandError as error:
        sys.stderr.write(f"reelnest: error: {error}\n")
        return 1
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
