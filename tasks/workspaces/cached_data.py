"""Reads the version of the data that a `data.dvc` names from DVC's cache, without changing the workspace.

Files that are missing from the cache are fetched from the remote: the folder's listing and the requested files, not the whole folder.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reelnest.errors import RunError
from reelnest.git import git
from reelnest.records.changes import Contents, read_contents
from reelnest.records.formats import PAIRS_FILE, VIDEOS_FILE
from reelnest.settings import Params
from reelnest.yaml_files import load_yaml
from tasks.workspaces.revisions import commit_of

RECORDS = (VIDEOS_FILE, PAIRS_FILE)


@dataclass(frozen=True)
class Version:
    """A version of the data in DVC's cache."""

    contents: Contents
    oids: dict[str, str]
    """Path in `data/` → hash of the file."""


class CachedData:
    """The files of one version. Raises RunError if a requested file is in neither the cache nor the remote."""

    def __init__(self, repo: Any, text: str, name: str) -> None:
        from dvc_data.hashfile.hash_info import HashInfo

        self._repo, self._name = repo, name
        (listing,) = self._fetch([HashInfo("md5", data_hash(text, name))])
        self.oids = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}

    def put(self, names: Iterable[str], folder: Path) -> None:
        """Puts those of the files that the version has into `folder`, as hard links if possible."""
        from dvc_data.hashfile.hash_info import HashInfo

        present = [name for name in dict.fromkeys(names) if name in self.oids]
        files = self._fetch([HashInfo("md5", self.oids[name]) for name in present])
        for name, file in zip(present, files, strict=True):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:
                shutil.copyfile(file, target)

    def _fetch(self, objects: Collection[Any]) -> list[Path]:
        """Returns the files of objects in the cache, after fetching missing ones from the remote."""
        from dvc.exceptions import DvcException
        from dvc_data.hashfile.transfer import transfer

        cache = self._repo.cache.local
        missing = [hash_info for hash_info in objects if not cache.exists(hash_info.value)]
        if missing:
            try:
                transfer(self._repo.cloud.get_remote_odb(), cache, missing, shallow=True)
            except (DvcException, OSError) as error:
                raise self._unavailable(error) from error
        if any(not cache.exists(hash_info.value) for hash_info in missing):
            raise self._unavailable("the remote does not have it")
        return [Path(cache.oid_to_path(hash_info.value)) for hash_info in objects]

    def _unavailable(self, why: object) -> RunError:
        return RunError(
            f"The data of {self._name} is not in DVC's cache and cannot be fetched: {why}. Run `dvc push` on the machine that has it."
        )


def version(root: Path, params: Params, text: str, name: str) -> Version:
    """Returns the version that the text of a `data.dvc` names. Raises RunError if neither cache nor remote has its records."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo, TemporaryDirectory(prefix="reelnest-") as scratch:
        data = CachedData(repo, text, name)
        data.put(RECORDS, Path(scratch))
        contents = read_contents(Path(scratch), data.oids, params.data.validation_fraction, params.data.test_fraction)
    return Version(contents, data.oids)


def is_recorded(root: Path) -> bool:
    """Returns whether `data/` is the version that the checkout's `data.dvc` names. DVC does not hash unchanged files again."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not (root / "data.dvc").is_file():
        return False
    try:
        with Repo(str(root)) as repo:
            return not repo.status(targets=["data.dvc"])
    except DvcException:  # recording reports it
        return False


def data_hash(text: str, name: str) -> str:
    """Returns the hash of the folder that the text of a `data.dvc` names."""
    try:
        (out,) = load_yaml(text)["outs"]
        return str(out["md5"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{name}: its data.dvc names no folder: {error!r}. Run `dvc add data` and commit data.dvc.") from error


def dvc_file(root: Path, revision: str | None) -> str:
    """Returns the text of a revision's `data.dvc`, or of the checkout's if `revision` is None. Raises RunError if there is none."""
    if revision is None:
        path = root / "data.dvc"
        if not path.is_file():
            raise RunError(f"{path} is missing. Record the data: reelnest data add")
        return path.read_text(encoding="utf-8")
    commit = commit_of(root, revision)
    try:
        return git(root, "show", f"{commit}:./data.dvc")
    except RunError:
        raise RunError(f"revision: '{revision}' has no data.dvc. Choose a commit with one.") from None
