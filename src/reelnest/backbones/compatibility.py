"""Checks that settings fit the model that they name, before the model is opened. Every command runs this, so imports are cheap."""

import json
from pathlib import Path

from reelnest.backbones.family import Family
from reelnest.backbones.registry import TINY, local_family_of
from reelnest.errors import ConfigError
from reelnest.settings import PARAMS_FILE, Model, Params, load_params


def load_compatible_params(path: Path = PARAMS_FILE) -> Params:
    """Reads a params file and checks that its settings fit the model. Raises ConfigError like `load_params`."""
    params = load_params(path)
    family = local_family_of(params.model)
    problems = [problem for problem in (_too_wide(params.model), _split_steps(params, family), _no_area(params, family)) if problem]
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}." for problem in problems))
    return params


def embedding_width(model: Model) -> int | None:
    """Returns the width of the model's vectors; None if only the Hub knows it."""
    if model.projection is not None:
        return model.projection
    if model.name_or_path == TINY:
        return model.tiny.hidden_size
    config = Path(model.name_or_path) / "config.json"
    if config.is_file():
        contents = json.loads(config.read_text(encoding="utf-8"))
        size = contents.get("hidden_size") or contents.get("text_config", {}).get("hidden_size")
        return int(size) if size else None
    family = local_family_of(model)
    return None if family is None else family.hidden_size_of(model.name_or_path)


def check_frames(params: Params, family: Family) -> None:
    """Raises ConfigError if the frames do not divide into the family's temporal steps."""
    if problem := _split_steps(params, family):
        raise ConfigError(f"{problem}.")


def _too_wide(model: Model) -> str | None:
    width = embedding_width(model)
    if width is None or model.dims[-1] <= width:
        return None
    source = "model.projection" if model.projection else f"the hidden size of {model.name_or_path}"
    return f"model.dims: {model.dims[-1]} is above the embedding's width, {width} ({source}); use dims up to {width}"


def _no_area(params: Params, family: Family | None) -> str | None:
    sizes = params.preprocess
    if family is None:
        return None
    area = family.vision.factor**2
    least = -(-sizes.min_pixels // area) * area
    if least <= sizes.max_pixels:
        return None
    return (
        f"preprocess.max_pixels: a frame of {family.title} has a multiple of {area} pixels, and none is between min_pixels"
        f" ({sizes.min_pixels}) and max_pixels ({sizes.max_pixels}); use max_pixels {least} or more"
    )


def _split_steps(params: Params, family: Family | None) -> str | None:
    frames, span = params.preprocess.frames, 1 if family is None else family.vision.temporal_patch_size
    if family is None or frames % span == 0:
        return None
    more = frames + span - frames % span
    return f"preprocess.frames: must be a multiple of {span} ({family.title} joins {span} frames into one step); found {frames}, use {more}"
