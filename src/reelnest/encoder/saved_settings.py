"""The settings file of a saved model. It is read without importing torch, so a wrong folder fails at once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reelnest.backbones.family import Family
from reelnest.backbones.registry import family_in, family_of
from reelnest.errors import ModelError
from reelnest.records.content_hash import combined_hash, file_hash
from reelnest.settings import Model, Preprocess
from reelnest.video.frames import FrameSettings

FORMAT, FORMAT_VERSION = "reelnest", 2
SETTINGS_FILE = "reelnest.json"
RUN_FILE, CARD_FILE = "run.json", "README.md"
ABOUT_THE_MODEL = (RUN_FILE, CARD_FILE)
"""Files of a model's folder that are not part of the model: its tracking run and its model card."""


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns the file's contents. Raises ModelError for a missing folder, or one of another format."""
    path = folder / SETTINGS_FILE
    if folder.is_file():
        raise ModelError(f"{folder} is a file; expected the folder of a saved model, such as models/candidate.")
    if not folder.is_dir():
        raise ModelError(f"{folder} is missing. Expected the folder of a saved model; `reelnest train` saves models/candidate.")
    if not path.is_file():
        raise ModelError(f"{folder}: no {SETTINGS_FILE}, so this is not a saved model. To train a base model, set model.name_or_path.")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}. Copy the model again.") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ModelError(f'{path}: no "format": "{FORMAT}", so this is not a saved model. Use the folder that training saved.')
    if stored.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format version {stored.get('format_version')!r}, but this reelnest reads version {FORMAT_VERSION}. "
            "Open it with the version that saved it, or save the model again."
        )
    return stored


def saved_hash(folder: Path) -> str:
    """Returns the hash of the model when it was saved, `folder_hash(folder, without=ABOUT_THE_MODEL)`, without reading its weights.

    Raises ModelError like `read_settings`.
    """
    return combined_hash({**saved_checksums(read_settings(folder), folder), SETTINGS_FILE: file_hash(folder / SETTINGS_FILE)})


def saved_checksums(stored: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Returns the checksums of the model's files in the contents of its settings file, by name. Raises ModelError if there are none."""
    files = stored.get("files")
    if not isinstance(files, dict):
        raise ModelError(f"{folder / SETTINGS_FILE}: no checksums of the model's files (`files`). Save the model again.")
    return files


def saved_family(folder: Path) -> Family:
    """Returns the family of a saved model. Raises ModelError like `read_settings`, and for a missing base."""
    stored = read_settings(folder)
    try:
        lora = stored["model"]["lora"]
        base = Model.model_validate(stored["model"]) if lora and not lora["merge"] else None
    except (ValidationError, KeyError, TypeError) as error:
        raise unknown_settings(folder, error) from error
    return family_in(folder) if base is None else family_of(base)


def frame_settings(folder: Path) -> FrameSettings:
    """Returns how a saved model reads videos. Raises ModelError like `saved_family`."""
    try:
        sampling = Preprocess.model_validate(read_settings(folder)["preprocess"])
    except (ValidationError, KeyError) as error:
        raise unknown_settings(folder, error) from error
    return FrameSettings(sampling, saved_family(folder).vision)


def unknown_settings(folder: Path, error: Exception) -> ModelError:
    """Returns the error for contents that this version does not write."""
    return ModelError(f"{folder / SETTINGS_FILE}: not in this version's format: {error}. Save the model again.")
