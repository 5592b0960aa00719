"""Hashes of content, independent of where and when it was written."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any


def folder_hash(folder: Path, without: Collection[str] = (), suffix: str = "") -> str:
    """Returns the SHA-256 over the names and contents of a folder's files that end in `suffix`, except the top-level files in `without`."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob(f"*{suffix}") if path.is_file()}
    return combined_hash({name: file_hash(path) for name, path in files.items() if name not in without})


def combined_hash(hashes: Mapping[str, str]) -> str:
    """Returns the `folder_hash` of files whose hashes are known, by relative path."""
    digest = hashlib.sha256()
    for name in sorted(hashes, key=PurePosixPath):
        digest.update(f"{name}\0{hashes[name]}\n".encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_hash(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
