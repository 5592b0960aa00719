"""Paths that come with the data lead to files of the data folder and nowhere else.

Data comes from other people: a path must not make a stage read, and a page show, other files of the machine.
"""

from pathlib import Path, PurePosixPath, PureWindowsPath

from reelnest.errors import VideoError
from reelnest.records.json_lines import show


def resolve(name: str, folder: Path) -> Path:
    """Where `name`, relative to `folder`, leads, links followed. The file need not exist. Raises VideoError (`unsafe_path`)."""
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
    except (OSError, RuntimeError) as error:
        raise _unsafe(name, folder, f"leads nowhere ({error})") from None
    if not resolved.is_relative_to(root):
        raise _unsafe(name, folder, "is a link that leaves the folder")
    return resolved


def _unsafe(name: str, folder: Path, problem: str) -> VideoError:
    expected = f"expected a file under {folder.name}/, named relative to it: copy it there"
    return VideoError("unsafe_path", f"the path {show(name)} {problem}; {expected}")
