"""Paths that come with the data lead to files of the data folder and nowhere else.

Data comes from other people: a path must not make a stage read, and a page show, other files of the machine.
"""

import errno
import os
import stat
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

from reelnest.errors import VideoError
from reelnest.records.json_lines import show


def resolve(name: str, folder: Path) -> Path:
    """Where `name`, relative to `folder`, leads, links followed. The file need not exist.

    Raises VideoError (`unsafe_path`, `undecodable_name`).
    """
    path = PurePosixPath(name)
    if not name.strip() or "\0" in name:
        raise _unsafe(name, folder, "is empty or holds a NUL character")
    if path.is_absolute() or PureWindowsPath(name).is_absolute():
        raise _unsafe(name, folder, "is absolute")
    if ".." in path.parts or ".." in PureWindowsPath(name).parts:
        raise _unsafe(name, folder, "climbs with “..”")
    try:
        root = folder.resolve()
        resolved = (root / path).resolve()
    except UnicodeEncodeError:
        raise _undecodable(show(name)) from None
    except (OSError, RuntimeError) as error:
        raise _unsafe(name, folder, f"leads nowhere ({error})") from None
    if not resolved.is_relative_to(root):
        raise _unsafe(name, folder, "is a link that leaves the folder")
    return resolved


def check_regular_file(file: Path, name: str) -> os.stat_result:
    """What the system knows of a file that should be there, which messages call `name`.

    Raises VideoError: `missing`, `unreadable`, `not_a_file` or `undecodable_name`.
    """
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError("missing", f"there is no file {name}; correct the path or add the file") from None
    except PermissionError:
        raise VideoError("unreadable", f"{name}: this user may not look into its folder; change the folder's permissions") from None
    except UnicodeEncodeError:
        raise _undecodable(name) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise VideoError("missing", f"{name}: no file can have such a long name; correct the path") from None
        raise VideoError("unreadable", f"{name}: cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "no regular file")
        raise VideoError("not_a_file", f"{name}: {kind}, where a file is expected")
    return status


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _undecodable(name: str) -> VideoError:
    advice = "start the command with PYTHONUTF8=1, or in a UTF-8 locale such as LANG=C.UTF-8"
    text = f"{name}: cannot be written in {sys.getfilesystemencoding()}, the encoding of this locale's file names; {advice}"
    return VideoError("undecodable_name", text)


def _unsafe(name: str, folder: Path, problem: str) -> VideoError:
    expected = f"expected a file under {folder.name}/, named relative to it: copy it there"
    return VideoError("unsafe_path", f"the path {show(name)} {problem}; {expected}")
