"""Checks that paths in the data stay inside the data folder.

The data is untrusted: its paths must not make a stage read, or a page show, other files of the machine.
"""

import errno
import functools
import os
import stat
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from reelnest.errors import VideoError
from reelnest.records.files.tar_members import find_member
from reelnest.records.json_lines import show


def resolve(name: str, folder: Path) -> Path:
    """Resolves `name`, relative to `folder`, and follows links. The file need not exist.

    Raises VideoError (`unsafe_path`, `undecodable_name`).
    """
    return Path(_resolve(name, folder)[0])


def check_inside(name: str, folder: Path) -> None:
    """Raises VideoError as `resolve` does."""
    _resolve(name, folder)


def is_file(path: Path) -> bool:
    """Returns whether there is such a file. A name that the system refuses, such as one that is too long, is no file and no error."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises OSError for such names


def regular_file(name: str, folder: Path) -> Path:
    """Resolves `name`, relative to `folder`, to a file that exists.

    Raises VideoError as `resolve` and `check_regular_file` do.
    """
    path, mode = _resolve(name, folder)
    file = Path(path)
    if not stat.S_ISREG(mode):
        check_regular_file(file, f"{show(name)} under {folder.name}/")
    return file


def _resolve(name: str, folder: Path) -> tuple[str, int]:
    """Returns the resolved path and its mode; the mode is 0 if it must be asked for."""
    if not name.strip() or "\0" in name:
        raise _unsafe(name, folder, "is empty or contains a NUL character")
    windows = PureWindowsPath(name) if "\\" in name or ":" in name else None
    if name.startswith("/") or (windows is not None and windows.is_absolute()):
        raise _unsafe(name, folder, "is absolute")
    steps = [step for step in name.split("/") if step not in ("", ".")]
    if ".." in steps or (windows is not None and ".." in windows.parts):
        raise _unsafe(name, folder, "contains “..”")
    try:
        root = _resolved(folder, os.getcwd())  # noqa: PTH109 - faster than Path.cwd()
        path = "/".join([root, *steps])
        mode = _mode_without_links(root, steps)
        if mode is not None:
            return path, mode
        resolved = Path(path).resolve()
    except UnicodeEncodeError:
        raise _undecodable(show(name)) from None
    except (OSError, RuntimeError) as error:  # their texts contain the machine's paths
        problem = error.strerror if isinstance(error, OSError) else "a link leads back to itself"
        raise _unsafe(name, folder, f"cannot be resolved ({problem})") from None
    if not resolved.is_relative_to(root):
        raise _unsafe(name, folder, "is a link to a file outside the folder")
    return str(resolved), 0


@functools.lru_cache(maxsize=8)
def _resolved(folder: Path, current: str) -> str:  # noqa: ARG001 - a relative folder depends on the current one
    return str(folder.resolve())


def _mode_without_links(path: str, steps: Sequence[str]) -> int | None:
    """Returns the mode of the last step below `path` if all steps exist and none is a link. `Path.resolve` takes several times as long."""
    mode = 0
    try:
        for step in steps:
            path = f"{path}/{step}"
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                return None
    except OSError:
        return None
    return mode


def _advice(file: Path) -> str:
    """Returns what to do about a file that does not exist."""
    if "\\" in file.name:
        return "separate folders with / instead of \\"
    missing = file
    while not missing.parent.exists():
        missing = missing.parent
    present = _names(str(missing.parent)).get(_folded(missing.name))
    if present in (None, missing.name):  # a link without a target is in the folder
        return "correct the path or add the file"
    if unicodedata.normalize("NFC", present) == unicodedata.normalize("NFC", missing.name):
        return "a file of this name exists in another Unicode form (NFC or NFD); rename it to the name in the record"
    return f"did you mean {show(present)}, which differs in case or white space?"


@functools.lru_cache(maxsize=8)
def _names(folder: str) -> dict[str, str]:
    """Returns the names in a folder, by their `_folded` form."""
    try:
        return {_folded(name): name for name in os.listdir(folder)}  # noqa: PTH208 - only the names are needed
    except OSError:  # a file, or no permission
        return {}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def check_regular_file(file: Path, name: str) -> int:
    """Returns the size of a file, or member of a tar file, that must exist. Messages call it `name`.

    Raises VideoError: `missing`, `unreadable`, `not_a_file` or `undecodable_name`, or as `find_member` does.
    """
    try:
        status = file.stat()
    except NotADirectoryError:
        member = find_member(file)
        if member is None:
            raise VideoError("missing", f"there is no file {name}; {_advice(file)}") from None
        return member.size
    except FileNotFoundError:
        raise VideoError("missing", f"there is no file {name}; {_advice(file)}") from None
    except PermissionError:
        raise VideoError("unreadable", f"{name}: no permission to read its folder; change the folder's permissions") from None
    except UnicodeEncodeError:
        raise _undecodable(name) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise VideoError("missing", f"{name}: the file name is too long; correct the path") from None
        raise VideoError("unreadable", f"{name}: cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "not a regular file")
        raise VideoError("not_a_file", f"{name}: expected a file, found {kind}")
    return status.st_size


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _undecodable(name: str) -> VideoError:
    advice = "start the command with PYTHONUTF8=1, or in a UTF-8 locale such as LANG=C.UTF-8"
    text = f"{name}: cannot be encoded in {sys.getfilesystemencoding()}, the locale's file name encoding; {advice}"
    return VideoError("undecodable_name", text)


def _unsafe(name: str, folder: Path, problem: str) -> VideoError:
    expected = f"expected a path relative to {folder.name}/, inside it: copy the file there"
    return VideoError("unsafe_path", f"the path {show(name)} {problem}; {expected}")
