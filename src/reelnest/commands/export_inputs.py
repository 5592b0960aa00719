"""Checks the inputs of `reelnest export` before torch is imported, which takes seconds."""

from pathlib import Path
from typing import Any

from reelnest.encoder.saved_settings import read_settings
from reelnest.errors import ModelError
from reelnest.stages.workspace import Workspace


def check_export(workspace: Workspace, folder: Path) -> dict[str, Any]:
    """Returns the settings file of the candidate. Raises ModelError if `folder` exists, or if there are no adapters."""
    if folder.exists():
        raise ModelError(f"{folder} exists already. Name another folder, or remove it.")
    if not workspace.candidate.is_dir():
        raise ModelError(f"{workspace.candidate} is missing. Run `reelnest train`.")
    stored = read_settings(workspace.candidate)
    if stored["model"]["lora"] is None:
        raise ModelError(f"{workspace.candidate} was trained without LoRA (model.lora: null), so there are no adapters to merge or export.")
    return stored
