"""Checksums of a saved model's folder, so that changed or untrusted files are refused before any file is opened.

The checksums are in the folder itself: they detect damaged and edited files, but not a folder that was rewritten with new checksums.
Against that, no file is executed: weights are safetensors, and no code of a model is loaded.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from reelnest.backbones.loading import PICKLED
from reelnest.encoder.saved_settings import ABOUT_THE_MODEL
from reelnest.errors import ModelError
from reelnest.records.content_hash import file_hash

READ_BY_NAME = (".json", ".safetensors", ".jinja", ".txt", ".model", ".py")
"""transformers and sentence-transformers open files with these suffixes by name."""


def checksums(folder: Path, without: str) -> dict[str, str]:
    """Returns the SHA-256 of each file of the folder except `without`, by relative path."""
    return {name: _sha256(path) for name, path in _files(folder) if name != without}


def check_files(folder: Path, expected: Mapping[str, str], without: str) -> None:
    """Raises ModelError if the folder's files do not match `expected`, or if it has more files that a reader would open.

    A link may replace only a file of equal bytes (DVC links to its cache).
    """
    files = dict(_files(folder))
    for name, path in files.items():
        if name in expected or name == without:
            continue
        if any(path.match(pattern) for pattern in PICKLED):
            raise ModelError(f"{path}: a pickled file, which could run code when opened. Remove it; only safetensors are read.")
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{path}: a link out of the model's folder that was not saved with the model. Remove it.")
        if path.suffix in READ_BY_NAME and name not in ABOUT_THE_MODEL:
            raise ModelError(f"{path}: was not saved with the model, but would be read with it. Remove it, or copy the model again.")
    for name, digest in sorted(expected.items()):
        if name not in files:
            raise ModelError(f"{folder / name}: is missing, so the model is incomplete. Copy the model again.")
        if _sha256(files[name]) != digest:
            raise ModelError(f"{files[name]}: differs from the file that was saved. Copy the model again, or save it again.")
        if name.endswith("config.json") and _names_code(files[name]):
            raise ModelError(f"{files[name]}: names code to run (auto_map), which reelnest's models never do. Do not use this model.")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields files and links with their relative paths, without hidden folders, which no reader opens."""
    for path in sorted(folder.rglob("*")):
        names = path.relative_to(folder).parts
        if not names[0].startswith(".") and (path.is_symlink() or path.is_file()):
            yield "/".join(names), path


def _names_code(path: Path) -> bool:
    """Returns whether a settings file names code for transformers to run, at any depth (a processor's file nests others)."""
    try:
        waiting = [json.loads(path.read_bytes())]
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}. Copy the model again.") from error
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and "auto_map" in value:
            return True
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return False


def _sha256(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}. Copy the model again.") from error
