"""DVC's record of a run: `data.dvc`, `dvc.lock` and DVC's settings."""

import configparser
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reelnest.artifacts.lineage import DataVersion
from reelnest.errors import RegistryError
from reelnest.yaml_files import YAMLError, load_yaml, yaml_problem

DATA_FILE, LOCK_FILE = "data.dvc", "dvc.lock"
CODE = ("src/", "configs/")
IGNORED = ("__pycache__", ".DS_Store", ".ipynb_checkpoints")
"""Files that are not in the hash of a folder, as in `.dvcignore`. Byte code (`.pyc`) is not either."""
NOT_INPUTS = ("models/candidate",)
"""Inputs that are not compared. The hash of this folder differs each time, because `run.json` has the id of the MLflow run."""


def read_yaml(path: Path) -> dict[str, Any] | None:
    """Reads a YAML mapping; None if the file is missing. Raises RegistryError if it is no mapping."""
    if not path.is_file():
        return None
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        problem = yaml_problem(error) if isinstance(error, YAMLError) else str(error)
        raise RegistryError(f"{path}: not readable as YAML: {problem}. Run `dvc repro` to write it again.") from error
    if not isinstance(content, dict):
        raise RegistryError(f"{path}: expected a mapping, found {type(content).__name__}. Run `dvc repro` to write it again.")
    return content


def data_version(root: Path, sample_seed: int | None = None) -> DataVersion | None:
    """Returns the version of the project's data in `data.dvc`; None if there is no such file.

    Raises RegistryError if it is no file of DVC.
    """
    file = read_yaml(root / DATA_FILE)
    if file is None:
        return None
    try:
        out = file["outs"][0]
        return DataVersion(
            hash=out["md5"],
            files=out.get("nfiles"),
            bytes=out.get("size"),
            sample_seed=sample_seed,
            remote=remote_name(root),
            cache=str(cache_folder(root)),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise RegistryError(f"{root / DATA_FILE}: not a valid DVC file ({error!r} is missing). Run `dvc add data` again.") from error


def inputs(lock: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Returns the inputs of the stages in a `dvc.lock`: the hash by (stage, file), and the value by (stage, setting)."""
    values: dict[tuple[str, str], str] = {}
    for stage, entry in lock.get("stages", {}).items():
        values |= {(stage, file["path"]): file["md5"] for file in entry.get("deps", []) if file["path"] not in NOT_INPUTS}
        for settings in entry.get("params", {}).values():
            values |= {(stage, name): value for name, value in _settings("", settings)}
    return values


def differing_inputs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Returns the inputs in which two `dvc.lock`s differ, as lines `stage: input`."""
    old, new = inputs(before), inputs(after)
    return sorted({f"{stage}: {what}" for stage, what in old.keys() | new.keys() if old.get((stage, what)) != new.get((stage, what))})


def stale_inputs(lock: Mapping[str, Any], root: Path) -> list[str]:
    """Returns the code and settings of the project at `root` that changed since the run that wrote `lock`, as lines `stage: input`."""
    params = read_yaml(root / "params.yaml") or {}
    stale = []
    for stage, entry in lock.get("stages", {}).items():
        for file in entry.get("deps", []):
            if file["path"].startswith(CODE) and dvc_hash(root / file["path"]) != file["md5"]:
                stale.append(f"{stage}: {file['path']}")
        for settings in entry.get("params", {}).values():
            stale += [f"{stage}: {name}" for name, value in settings.items() if _setting(params, name) != value]
    return stale


def dvc_hash(path: Path) -> str | None:
    """Returns DVC's hash of a file or folder; None if it does not exist."""
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
    """Returns the name of DVC's default remote; None if there is none."""
    return _option(root, "core", "remote")


def cache_folder(root: Path) -> Path:
    """Returns DVC's cache folder on this machine."""
    folder = _option(root, "cache", "dir")
    return (root / ".dvc" / (folder or "cache")).absolute()


def _option(root: Path, section: str, name: str) -> str | None:
    value = None
    for file in (root / ".dvc" / "config", root / ".dvc" / "config.local"):  # the second file overrides the first
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # DVC itself refuses to run with such a file
        value = parser.get(section, name, fallback=value)
    return value


def _settings(prefix: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings(f"{prefix}{name}.", value)
        else:
            yield prefix + name, json.dumps(value)


def _setting(params: Mapping[str, Any], name: str) -> Any:
    value: Any = params
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
