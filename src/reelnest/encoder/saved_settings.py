"""The settings file of a saved model. It is read without torch, so that a wrong folder is refused at once."""

import json
from pathlib import Path
from typing import Any

from reelnest.errors import ModelError

FORMAT, FORMAT_VERSION = "reelnest", 2
SETTINGS_FILE = "reelnest.json"


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns what the file holds. Raises ModelError for a folder that is not there, or that this version did not save."""
    path = folder / SETTINGS_FILE
    if not folder.is_dir():
        raise ModelError(f"{folder} is missing. Expected the folder of a saved model; `reelnest train` saves models/candidate.")
    if not path.is_file():
        raise ModelError(
            f"{folder}: no {SETTINGS_FILE}, so this was not saved by reelnest. A base model goes into model.name_or_path; train it first."
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}. Copy the model again.") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ModelError(f'{path}: not reelnest\'s (no "format": "{FORMAT}" in it). Give the folder that training saved.')
    if stored.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format version {stored.get('format_version')!r}; this reelnest reads version {FORMAT_VERSION}. "
            "Open it with the reelnest that saved it, or save it again with this one."
        )
    return stored
