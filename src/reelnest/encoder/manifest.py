"""What a saved model's folder holds, with checksums, so that a changed or a stranger's file is refused before anything is opened.

The checksums stand in the folder too: they find damage and hands that changed a file, and not who wrote the whole folder anew. Against that
stands that nothing here is ever run: weights are safetensors, and no code that comes with a model is loaded.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from reelnest.backbones.loading import PICKLED
from reelnest.errors import ModelError

RUN_FILE, CARD_FILE = "run.json", "README.md"
ABOUT_THE_MODEL = (RUN_FILE, CARD_FILE)
"""Files of a model's folder that are no part of the model: where its training was recorded, and what is told of it."""
READ_BY_NAME = (".json", ".safetensors", ".jinja", ".txt", ".model", ".py")
"""transformers and sentence-transformers pick up such files by their names alone."""


def checksums(folder: Path, without: str) -> dict[str, str]:
    """SHA-256 of each file of the folder but `without`, by its path in it."""
    return {name: _sha256(path) for name, path in _files(folder) if name != without}


def check_files(folder: Path, expected: Mapping[str, str], without: str) -> None:
    """Raises ModelError where the folder does not hold what `expected` says, or holds more that would be opened.

    A link may stand for a file of equal bytes (DVC links to its cache), but for nothing else.
    """
    found = dict(_files(folder))
    for name, path in found.items():
        if name in expected or name == without:
            continue
        if any(path.match(pattern) for pattern in PICKLED):
            raise ModelError(f"{path}: a pickled file, which could run code when opened. Remove it; only safetensors are read.")
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{path}: a link that leaves the model's folder, and no file of the model. Remove it.")
        if path.suffix in READ_BY_NAME and name not in ABOUT_THE_MODEL:
            raise ModelError(f"{path}: was not saved with the model, and would be read with it. Remove it, or copy the model again.")
    for name, digest in sorted(expected.items()):
        if name not in found:
            raise ModelError(f"{folder / name}: no such file, so the model is not whole. Copy it again.")
        if _sha256(found[name]) != digest:
            raise ModelError(f"{found[name]}: not the bytes that were saved with the model. Copy the model again, or save it again.")
        if name.endswith("config.json") and _names_code(found[name]):
            raise ModelError(f"{found[name]}: names code to run (auto_map). reelnest's models have none: this is not one, do not use it.")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files and links, by their path in the folder; not those of hidden folders, which no reader opens."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not parts[0].startswith(".") and (path.is_symlink() or path.is_file()):
            yield "/".join(parts), path


def _names_code(path: Path) -> bool:
    """Whether a settings file asks transformers to run a file of the folder, at any depth (a processor's holds those of others)."""
    try:
        waiting = [json.loads(path.read_bytes())]
    except ValueError as error:
        raise ModelError(f"{path}: not readable as JSON: {error}. Copy the model again.") from error
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and "auto_map" in value:
            return True
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return False


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}. Copy the model again.") from error
