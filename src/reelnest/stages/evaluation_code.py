"""Which code made a figure: two models are compared where theirs came of the same files.

A commit would be too much, since most commits change no figure; the versions of the libraries are left out, which move a cosine by a
rounding. tests/unit/tasks/test_dvc_yaml.py compares the list with what DVC runs the evaluation again for.
"""

import hashlib
from pathlib import Path

import reelnest
from reelnest.records.content_hash import folder_hash, value_hash

CODE = (
    "backbones",
    "encoder",
    "evaluation",
    "records/behaviour_tests.py",
    "records/content_hash.py",
    "search",
    "stages/evaluate.py",
    "stages/evaluation_code.py",
    "stages/evaluation_report.py",
    "store/cached_rows.py",
    "store/entries.py",
    "store/frame_store.py",
    "store/prepared.py",
    "video/frames.py",
    "video/patches.py",
)


def evaluation_code_hash(depth: int) -> str:
    """SHA-256 over the files that an evaluation runs, but those that draw its page, and the one setting that its figures depend on."""
    source = Path(reelnest.__file__).parent
    return value_hash([depth, {name: _hash(source / name) for name in CODE}])


def _hash(path: Path) -> str:
    return folder_hash(path, suffix=".py") if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
