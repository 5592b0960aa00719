"""What a process runs on: Python, the machine, the installed packages and how they differ from those that were tested together."""

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
    """Like `pip freeze`, without this project. A local suffix (`2.13.0+cpu`) is cut off: no index that pip asks by itself knows it."""
    found = {_name(one.metadata["Name"]): one.version.partition("+")[0] for one in distributions() if one.metadata["Name"]}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name != OURS]


def environment(root: Path, packages: Iterable[str]) -> Environment:
    """This process's, against the lock file of the project at `root`. `packages` is what `installed` gave."""
    present = dict(line.split("==") for line in packages)
    lock = root / LOCK_FILE
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    wanted = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", text, flags=re.MULTILINE))
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=len(present),
        lock_hash=hashlib.sha256(text.encode()).hexdigest() if text else None,
        differing=tuple(
            f"{name} {present.get(_name(name), 'missing')}, locked {version}"
            for name, version in wanted.items()
            if present.get(_name(name)) != version
        ),
    )


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()
