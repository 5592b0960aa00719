"""Which libraries are installed, and whether they are as new as pyproject.toml asks."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

CHECKED = ("torch", "transformers", "accelerate", "peft")


def problems(pyproject: Path) -> list[str]:
    """Returns one line for each library that is older than the project's lowest version."""
    found = []
    for requirement in tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]:
        name = re.split(r"[<>=!~;\[ ]", requirement)[0]
        lowest = re.search(r">=\s*([\d.]+)", requirement)
        if name not in CHECKED or lowest is None:
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # reported as missing
        if _numbers(installed) < _numbers(lowest[1]):
            found.append(f"{name} {installed} is too old: reelnest needs {lowest[1]} or newer. Run `pip install '{requirement}'`.")
    return found


def is_installed(module: str) -> bool:
    """Returns whether a module can be imported, without importing it (its parents are)."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.match(r"[\d.]*\d", text)[0].split(".")[:3]))  # type: ignore[index]  # a version begins with a digit
