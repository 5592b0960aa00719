"""The git checkout of this process: its commit, its uncommitted changes, and the repository to clone."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from reelnest.addresses import without_credentials
from reelnest.errors import RunError
from reelnest.git import git_bytes

CODE = ("src", "configs")
"""Folders whose untracked files count as changes, because stages depend on them. Untracked files elsewhere (notes, plots) do not count."""
LOCK_FILE = "dvc.lock"
"""Not counted as a change: each run writes it, and the lineage has a copy."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkout:
    """A commit and the uncommitted changes."""

    commit: str
    changes: bytes
    """The uncommitted changes as a patch for `git apply`; empty if there are none."""
    repository: str
    """The repository to clone: the address of `origin` if it has the commit, or else the local repository."""
    is_published: bool
    """Whether `origin` has the commit, according to the local remote-tracking branches."""
    folder: str
    """The project's folder in the repository; empty for the top level."""

    @property
    def name(self) -> str:
        """The commit, with `-dirty` if there are uncommitted changes."""
        return f"{self.commit}-dirty" if self.changes else self.commit


def read_checkout(folder: Path) -> Checkout | None:
    """Returns the checkout of `folder`. Returns None and logs git's reason outside a checkout, without git, or before the first commit."""
    try:
        commit = _text(folder, "rev-parse", "--verify", "HEAD")
        origin = without_credentials(_text(folder, "config", "--default", "", "--get", "remote.origin.url"))
        is_published = bool(origin and _text(folder, "branch", "--remotes", "--contains", commit, "--list", "origin/*"))
        return Checkout(
            commit=commit,
            changes=_changes(folder),
            repository=origin if is_published else _text(folder, "rev-parse", "--path-format=absolute", "--git-common-dir"),
            is_published=is_published,
            folder=_text(folder, "rev-parse", "--show-prefix").rstrip("/"),
        )
    except RunError as error:
        log.warning("no commit is recorded: %s", error)
    except OSError as error:
        log.warning("%s: no commit is recorded: %s", folder.absolute(), error)
    return None


def _changes(folder: Path) -> bytes:
    """Returns the difference to HEAD, including untracked files.

    It does not write to the index or object store, which others may be using.
    """
    with TemporaryDirectory(prefix="reelnest-") as scratch:
        index = Path(scratch) / "index"
        original = folder / _text(folder, "rev-parse", "--git-path", "index")
        if original.is_file():
            shutil.copy(original, index)
        new = [name for name in CODE if (folder / name).is_dir()]
        if new and (files := _git(folder, "ls-files", "-z", "--others", "--exclude-standard", "--", *new)):
            # Intent to add includes the files in the difference without storing them.
            _git(folder, "add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=files, index=index)
        form = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
        return _git(folder, "diff", *form, "HEAD", "--", ":(top)", f":(exclude){LOCK_FILE}", index=index)


def _text(folder: Path, *arguments: str) -> str:
    return _git(folder, *arguments).decode(errors="replace").strip()


def _git(folder: Path, *arguments: str, stdin: bytes = b"", index: Path | None = None) -> bytes:
    environment = {"GIT_OPTIONAL_LOCKS": "0"} | ({"GIT_INDEX_FILE": str(index)} if index else {})
    return git_bytes(folder, *arguments, stdin=stdin, environment=environment)
