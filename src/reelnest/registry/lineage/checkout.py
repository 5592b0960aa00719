"""The git checkout that a process works in: which commit, what differs from it, and where it can be cloned from."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from reelnest.errors import RunError
from reelnest.git import git_bytes
from reelnest.registry.connection import without_credentials

CODE = ("src", "configs")
"""Folders whose new files decide what a stage computes. A new file elsewhere (notes, a plot) is no difference; a changed one always is."""
LOCK_FILE = "dvc.lock"
"""Written by each run, and kept by itself: no difference either."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkout:
    """A commit and what stands on top of it."""

    commit: str
    changes: bytes
    """What `git apply` makes of the commit's files to have those that were there; empty where nothing differs."""
    repository: str
    """What to clone: the address of `origin` where it has the commit, or else this machine's repository."""
    is_published: bool
    """Whether `origin` has the commit, as far as is known here without asking it."""
    folder: str
    """The project's, in the repository; empty for its top."""

    @property
    def name(self) -> str:
        """The commit, with `-dirty` where files differ from it."""
        return f"{self.commit}-dirty" if self.changes else self.commit


def read_checkout(folder: Path) -> Checkout | None:
    """The checkout that `folder` is in. None, and git's reason in the log, outside of one, without git, or before the first commit."""
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
    """The difference to HEAD, with files that are new. Neither index nor object store is written to: others may be at work there."""
    with TemporaryDirectory(prefix="reelnest-") as scratch:
        index = Path(scratch) / "index"
        own = folder / _text(folder, "rev-parse", "--git-path", "index")
        if own.is_file():
            shutil.copy(own, index)
        new = [name for name in CODE if (folder / name).is_dir()]
        if new and (files := _git(folder, "ls-files", "-z", "--others", "--exclude-standard", "--", *new)):
            # Intent only: it makes the file a part of the difference and stores nothing.
            _git(folder, "add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul", given=files, index=index)
        form = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
        return _git(folder, "diff", *form, "HEAD", "--", ":(top)", f":(exclude){LOCK_FILE}", index=index)


def _text(folder: Path, *arguments: str) -> str:
    return _git(folder, *arguments).decode(errors="replace").strip()


def _git(folder: Path, *arguments: str, given: bytes = b"", index: Path | None = None) -> bytes:
    environment = {"GIT_OPTIONAL_LOCKS": "0"} | ({"GIT_INDEX_FILE": str(index)} if index else {})
    return git_bytes(folder, *arguments, stdin=given, environment=environment)
