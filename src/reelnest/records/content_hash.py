"""Hashes of content, independent of where and when it was written."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any


def folder_hash(folder: Path, without: Collection[str] = (), suffix: str = "") -> str:
    """SHA-256 over the names and contents of a folder's files that end in `suffix`, except the top-level files in `without`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(f"*{suffix}")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in without:
            with path.open("rb") as file:
                digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def value_hash(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
