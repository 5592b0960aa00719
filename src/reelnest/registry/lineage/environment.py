"""The environment of a process: Python, the platform, the installed packages, and their differences from the lock file."""

import hashlib
import platform
import re
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

from reelnest.artifacts.lineage import Environment

LOCK_FILE = "requirements.lock"
OURS = "reelnest"


def installed() -> list[str]:
    """Returns what `pip freeze` prints, without this project.

    Local suffixes (`2.13.0+cpu`) are removed, because PyPI does not have such versions.
    """
    versions = {
        _name(package.metadata["Name"]): package.version.partition("+")[0] for package in distributions() if package.metadata["Name"]
    }
    return [f"{name}=={version}" for name, version in sorted(versions.items()) if name != OURS]


def environment(root: Path, packages: Iterable[str]) -> Environment:
    """Returns the environment of this process, compared with the lock file of the project at `root`.

    `packages` is the result of `installed`.
    """
    present = dict(line.split("==") for line in packages)
    lock = root / LOCK_FILE
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", text, flags=re.MULTILINE))
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=len(present),
        lock_hash=hashlib.sha256(text.encode()).hexdigest() if text else None,
        differing=tuple(
            f"{name} {present.get(_name(name), 'missing')}, locked {version}"
            for name, version in locked.items()
            if present.get(_name(name)) != version
        ),
    )


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()
