"""Versions of the data: add to it, see what changed between two of them, push it and notify the deployments.

Usage: `reelnest data add|diff|push`, which runs `python -m tasks.workspaces.data_versions` in the checkout. DVC keeps the bytes;
`data.dvc`, in git, names a version. The merging and comparing know neither: `reelnest.records.merging`, `reelnest.records.changes`.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from reelnest.atomic_files import aside_of, exchange_folders, flush_folder
from reelnest.errors import DataError, ReelnestError, RunError, VideoError
from reelnest.git import git
from reelnest.launch.command import prepare_process
from reelnest.records.changes import NOTHING, Changes, Contents, as_json, as_text, compare
from reelnest.records.formats import Video
from reelnest.records.merging import merge
from reelnest.settings import Params, load_params
from reelnest.stages import validate
from reelnest.stages.workspace import Workspace
from reelnest.video.decoder import Decoder, Limits, VideoInfo, in_parallel
from tasks.process import dvc_cache
from tasks.process.dvc import DVC
from tasks.process.locks import lock_or_none
from tasks.process.runner import CommandError, output_of, quieten
from tasks.workspaces.cached_data import Version, dvc_file, version
from tasks.workspaces.revisions import git_remote

LOCK = Path("work/locks/data.lock")
ADDING = "adding"
"""In `work/`: the reports of the last `data add`."""
MOST_DURATIONS = 500
"""Videos of a version that are opened for their duration: those whose bytes have the smallest hashes, the same ones each time."""


def add(root: Path, params: Params, sources: list[Path], *, replacing: bool, committing: bool) -> str:
    """Merges the sources into `data/`, checks the result, puts it in place and records it. Returns what to print.

    Raises DataError for conflicts and for data that fails its checks, RunError and CommandError for git and DVC; `data/` and `data.dvc`
    are then what they were.
    """
    workspace = Workspace(root)
    with lock_or_none(root / LOCK) as lock:
        if lock is None:
            raise RunError(f"{root / LOCK}: another `reelnest data add` works on data/. Start this one again when it has ended.")
        _check_present(workspace)
        before = _version_at_head(root, params)
        aside = aside_of(workspace.data)
        aside.mkdir()
        try:
            merge(sources, workspace.data, aside, replacing=replacing)
            _validate(workspace, params, aside)
            flush_folder(aside)
            with _in_place(workspace.data, aside):
                output_of([*DVC, "--wait-for-lock", "add", "data"], folder=root)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        changes = compare(before, version(root, params, (root / "data.dvc").read_text(encoding="utf-8"), "data.dvc").contents)
        if not changes.any and _is_committed(root):
            return "Nothing new: data/ is what data.dvc at HEAD names."
        message = f"Data: {changes.headline}\n\n{changes.counts}"
        if not committing:
            return f"{message}\n\nIn place, and recorded in data.dvc. Commit it, with this message: reelnest data add --commit"
        names = [name for name in ("data.dvc", ".gitignore") if (root / name).is_file()]
        output_of(["git", "add", "--", *names], folder=root)
        output_of(["git", "commit", "--quiet", f"--message={message}", "--", *names], folder=root)
        return message


def diff(root: Path, params: Params, before: str, after: str | None) -> tuple[Changes, dict[str, list[float]]]:
    """What changed from one revision's data to another's (left out: that of the checkout's `data.dvc`), and durations of either.

    Reads git, DVC's cache and, for what is not there, the remote; durations are of videos in the cache. Nothing of the workspace moves.
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
    """Hands data and run cache to DVC's default remote, where asked the branch to git's, and says that data has arrived."""
    if not dvc_cache.has_remote(root):
        raise RunError(
            "There is no DVC remote to push to. Name one: dvc remote add --default NAME with a folder, ssh://HOST/PATH or s3://BUCKET/PATH."
        )
    if not _is_committed(root):
        raise RunError("data.dvc is not committed as it stands, and a run works on commits. Commit it: reelnest data add --commit")
    dvc_cache.push(root)
    done = ["Pushed to DVC's remote."]
    if branch:
        remote = git_remote(root)
        name = git(root, "branch", "--show-current").strip()
        if remote is None or not name:
            raise RunError("The data is pushed; no branch is: expected a remote `origin` (or one remote only), and a branch checked out.")
        output_of(["git", "push", "--quiet", remote, name], folder=root)
        done.append(f"Pushed {name} to {remote}.")
    return " ".join([*done, _notify(root)])


def _version_at_head(root: Path, params: Params) -> Contents:
    """What a commit's counts are relative to: nothing, where HEAD names no data."""
    try:
        text = git(root, "show", "HEAD:./data.dvc")
    except RunError:
        return NOTHING
    return version(root, params, text, "HEAD").contents


def _check_present(workspace: Workspace) -> None:
    """Removes what a killed `data add` left, and raises RunError where `data/` cannot be added to."""
    left = sorted(workspace.data.parent.glob(f".{workspace.data.name}.*/"))
    if workspace.data.is_symlink():
        raise RunError(f"{workspace.data} is a link; expected a folder of the checkout, which can be exchanged as a whole.")
    if not workspace.data.is_dir():
        if left:
            raise RunError(f"There is no data/, but {left[0].name}/, which may be it: look into it, and rename or remove it.")
        if (workspace.root / "data.dvc").is_file():
            raise RunError(
                "There is no data/, but a data.dvc: get what it names first, with `dvc checkout data.dvc` or `dvc pull data.dvc`."
            )
        workspace.data.mkdir()
    for folder in left:
        shutil.rmtree(folder)


def _validate(workspace: Workspace, params: Params, data: Path) -> None:
    """The stage's own checks, on data that is not in place yet; its reports go to `work/adding/reports/`."""
    scratch = Workspace(workspace.work / ADDING)
    shutil.rmtree(scratch.root, ignore_errors=True)
    scratch.root.mkdir(parents=True)
    scratch.data.symlink_to(data.resolve(), target_is_directory=True)
    try:
        validate.run(scratch, params)
    except DataError as error:
        where = scratch.reports.relative_to(workspace.root)
        raise DataError(f"Nothing was added; with it, {str(error).replace('reports/', f'{where}/')}") from error
    finally:
        scratch.data.unlink()


@contextmanager
def _in_place(data: Path, aside: Path) -> Iterator[None]:
    """`aside` is `data` for the block, and stays it unless the block fails."""
    exchange_folders(aside, data)
    try:
        yield
    except BaseException:
        exchange_folders(aside, data)
        raise


def _is_committed(root: Path) -> bool:
    return not git(root, "status", "--porcelain", "--untracked-files=all", "--", "data.dvc").strip()


def _durations(root: Path, params: Params, versions: list[Version]) -> dict[tuple[str, ...], float]:
    """Seconds of videos that are in the cache, by the hashes of their files; the same bytes are opened once."""
    from dvc.repo import Repo

    wanted: dict[tuple[str, ...], Video] = {}
    for data in versions:
        of_files = {data.contents.hashes[video_id]: video for video_id, video in data.contents.videos.items() if video.path is not None}
        wanted.update((oids, of_files[oids]) for oids in sorted(of_files)[:MOST_DURATIONS])
    with Repo(str(root)) as repo:
        cache = repo.cache.local
        there = [oids for oids in wanted if all(oid and Path(cache.oid_to_path(oid)).is_file() for oid in oids)]

        def look(decoder: Decoder, oids: tuple[str, ...]) -> VideoInfo:
            return decoder.inspect([Path(cache.oid_to_path(oid)) for oid in oids])

        looked_at = list(in_parallel(there, look, Limits.of(params.validation)))
    return {oids: info.seconds for oids, info in looked_at if not isinstance(info, VideoError)}


def _notify(root: Path) -> str:
    """Emits the event if Prefect's server answers. Returns what to print of it."""
    from prefect.exceptions import PrefectException
    from prefect.settings import get_current_settings

    from tasks.services.prefect_server import is_answering, send_what_waits
    from tasks.workspaces import data_arrival

    later = "the deployment reelnest-look-for-data finds the data at its next look"
    address = get_current_settings().api.url
    if not address:
        return f"No Prefect server is named (PREFECT_API_URL), so no event was sent: {later}."
    if not is_answering(f"{address}/health"):
        return f"Prefect's server at {address} does not answer, so no event was sent: {later}."
    try:
        payload = data_arrival.arrived(root, "HEAD")
        if payload is None:
            return "No event was sent: a run was made from this data, or its event was sent before."
        data_arrival.notify(payload)
        send_what_waits()
    except (httpx.HTTPError, PrefectException) as error:
        return f"Prefect's server at {address} did not take the event ({error}): {later}."
    return f"Sent the event {data_arrival.EVENT}, at {payload['commit'][:12]}."


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
    asked = parser.parse_args()
    prepare_process()
    quieten()
    root = Path.cwd()
    try:
        params = load_params(root / "params.yaml")
        if asked.command == "add":
            text = add(root, params, asked.sources, replacing=asked.replace, committing=asked.commit)
        elif asked.command == "push":
            text = push(root, branch=asked.branch)
        else:
            changes, seconds = diff(root, params, asked.before, asked.after)
            text = json.dumps(as_json(changes, seconds), indent=2, ensure_ascii=True) if asked.json else as_text(changes, seconds)
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
