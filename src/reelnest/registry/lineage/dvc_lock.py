"""What DVC wrote down of a run, read from its files as YAML: `data.dvc`, `dvc.lock` and its settings."""

import configparser
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reelnest.errors import RegistryError
from reelnest.yaml_files import YAMLError, load_yaml

DATA_FILE, LOCK_FILE = "data.dvc", "dvc.lock"
CODE = ("src/", "configs/")
IGNORED = ("__pycache__", ".DS_Store", ".ipynb_checkpoints")
"""As `.dvcignore` has it: in no folder's hash. Byte code (`.pyc`) neither."""
NOT_INPUTS = ("models/candidate",)
"""Holds `run.json`, which says where a training was recorded: its hash differs each time. The model itself has a hash without it."""


def read_yaml(path: Path) -> dict[str, Any] | None:
    """None where there is no such file. Raises RegistryError for one that is no YAML mapping."""
    if not path.is_file():
        return None
    try:
        found = load_yaml(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise RegistryError(f"{path}: not readable as YAML: {error}. Run `dvc repro`, which writes it anew.") from error
    if not isinstance(found, dict):
        raise RegistryError(f"{path}: expected what DVC writes, found {type(found).__name__}. Run `dvc repro`, which writes it anew.")
    return found


def inputs(lock: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """What each stage of a `dvc.lock` depended on: (stage, file) with the file's hash, (stage, setting) with the setting's value."""
    found: dict[tuple[str, str], str] = {}
    for stage, entry in lock.get("stages", {}).items():
        found |= {(stage, file["path"]): file["md5"] for file in entry.get("deps", []) if file["path"] not in NOT_INPUTS}
        for settings in entry.get("params", {}).values():
            found |= {(stage, name): value for name, value in _settings("", settings)}
    return found


def differing_inputs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The stages and inputs in which two `dvc.lock`s differ, in words."""
    one, other = inputs(before), inputs(after)
    return sorted({f"{stage}: {what}" for stage, what in one.keys() | other.keys() if one.get((stage, what)) != other.get((stage, what))})


def stale_inputs(lock: Mapping[str, Any], root: Path) -> list[str]:
    """The code and settings that are not, in the project at `root`, what they were in the run that wrote `lock`."""
    now = read_yaml(root / "params.yaml") or {}
    found = []
    for stage, entry in lock.get("stages", {}).items():
        for file in entry.get("deps", []):
            if file["path"].startswith(CODE) and dvc_hash(root / file["path"]) != file["md5"]:
                found.append(f"{stage}: {file['path']}")
        for settings in entry.get("params", {}).values():
            found += [f"{stage}: {name}" for name, value in settings.items() if _setting(now, name) != value]
    return found


def dvc_hash(path: Path) -> str | None:
    """DVC's own name for a file or a folder; None where there is none."""
    if path.is_file():
        return _md5(path.read_bytes())
    if not path.is_dir():
        return None
    files = [
        {"md5": _md5(file.read_bytes()), "relpath": file.relative_to(path).as_posix()}
        for file in path.rglob("*")
        if file.is_file() and file.suffix != ".pyc" and not set(file.parts) & set(IGNORED)
    ]
    files.sort(key=lambda file: file["relpath"])
    return f"{_md5(json.dumps(files, sort_keys=True).encode())}.dir"


def remote_name(root: Path) -> str | None:
    """The remote that `dvc pull` asks; None where none is set."""
    return _option(root, "core", "remote")


def cache_folder(root: Path) -> Path:
    """Where the bytes of each version are kept on this machine."""
    folder = _option(root, "cache", "dir")
    return (root / ".dvc" / (folder or "cache")).absolute()


def _option(root: Path, section: str, name: str) -> str | None:
    value = None
    for file in (root / ".dvc" / "config", root / ".dvc" / "config.local"):  # the second one goes before the first
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # DVC itself refuses to run with such a file
        value = parser.get(section, name, fallback=value)
    return value


def _settings(above: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings(f"{above}{name}.", value)
        else:
            yield above + name, json.dumps(value)


def _setting(params: Mapping[str, Any], name: str) -> Any:
    found: Any = params
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
