"""Finds the family of a model by its published name or its config.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reelnest.backbones.family import FAMILIES, Family
from reelnest.errors import ModelError
from reelnest.settings import Model

if TYPE_CHECKING:  # this takes seconds to import
    from transformers import PreTrainedConfig

TINY = "tiny"
"""The value of `model.name_or_path` for a small random model, built at the start of training."""
TINY_NOTE = (
    "The model 'tiny' is for trying the workflow. It starts from random weights, so expect low quality on real videos: about 0.2 in"
    " Recall@10 and 0.06 in Recall@1 on 363 short clips. For real use, start from a preset in configs/presets/."
)
"""What to expect of it. The measurements are in docs/training.md, by `python -m benchmarks.quality`."""
TINY_FAMILY = "qwen2_5_vl"
"""The family of the tiny model if `model.family` is not set."""


FAMILY_KEY = "reelnest_family"
"""The key in config.json that names the family, if several have the same `model_type`."""


def family_names() -> tuple[str, ...]:
    """Returns the names of all families, for `model.family`."""
    return FAMILIES.names()


def known_families() -> list[Family]:
    """Returns all families, sorted by name."""
    return [FAMILIES[name] for name in FAMILIES.names()]


def family_of(settings: Model) -> Family:
    """Returns the family of `model.name_or_path`: `model.family`, or that of a published name, else from config.json, perhaps on the Hub.

    Raises ModelError if there is no config.json, or its family is unknown.
    """
    return _by_settings(settings) or family_at(settings.name_or_path, settings.revision)


def local_family_of(settings: Model) -> Family | None:
    """Returns the family like `family_of`, but without the Hub: None if the name is unknown or the folder has no readable config.json."""
    if known := _by_settings(settings):
        return known
    try:
        return family_in(Path(settings.name_or_path))
    except ModelError:
        return None


def family_at(base: str | Path, revision: str | None) -> Family:
    """Returns the family that the config.json of a folder or a Hub name declares. Raises ModelError."""
    return family_of_config(*_read_config(base, revision))


def family_in(folder: Path) -> Family:
    """Returns the family of the model in a folder. Raises ModelError if it has none of the known families."""
    return family_of_config(*_read_config(folder, None))


def family_for(settings: Model, base: str | Path, revision: str | None) -> Family:
    """Returns the family of the weights at `base`, of a model with `settings`. Raises ModelError, also if `model.family` does not fit."""
    config, where = _read_config(base, revision)
    family = _by_settings(settings)
    if family is not None and family.claims(config):
        return family
    by_config = family_of_config(config, where)
    if settings.family is not None:
        raise ModelError(
            f"model.family is {settings.family}, but {where} has model_type '{by_config.model_type}'. Set model.family to null."
        )
    return by_config


def family_of_config(config: Mapping[str, object], where: str) -> Family:
    """Returns the family that claims the contents of a config.json. Raises ModelError, which lists the known ones, unless one does."""
    if (name := config.get(FAMILY_KEY)) in FAMILIES.names():
        return FAMILIES[str(name)]
    names = _claiming(config)
    if len(names) == 1:
        return FAMILIES[names[0]]
    if names:
        titles = " or ".join(FAMILIES[name].title for name in names)
        raise ModelError(f"{where}: model_type {config['model_type']!r} is that of {titles}. Set model.family to {' or '.join(names)}.")
    known = ", ".join(f"'{family.model_type}' ({family.title})" for family in known_families())
    raise ModelError(f"{where}: model_type is {config.get('model_type')!r}; known model types: {known}.")


def mark_family(config: "PreTrainedConfig", family: Family) -> None:
    """Names the family in a config that fits several, so that a saved model opens as the same one."""
    names = _claiming(config.to_dict())
    if len(names) > 1:
        setattr(config, FAMILY_KEY, next(name for name in names if FAMILIES[name] is family))


def _claiming(config: Mapping[str, object]) -> list[str]:
    return [name for name in FAMILIES.names() if FAMILIES[name].claims(config)]


def _read_config(base: str | Path, revision: str | None) -> tuple[dict[str, object], str]:
    """Returns the contents of a config.json, and where it is. Raises ModelError."""
    folder = Path(base)
    if not folder.is_dir():
        from transformers import PreTrainedConfig  # takes seconds to import

        try:
            contents, _ = PreTrainedConfig.get_config_dict(str(base), revision=revision)
        except OSError as error:
            raise ModelError(f"The model of '{base}' at revision {revision} cannot be opened: {error}") from error
        return contents, f"{base} at revision {revision}"
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder}: no config.json. Set model.name_or_path to a folder with a model in Hugging Face format.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: not readable as a JSON object: {error}. Copy the model again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object. Copy the model again.")
    return config, str(path)


def _by_settings(settings: Model) -> Family | None:
    name = settings.name_or_path
    if settings.family is not None:
        return FAMILIES[settings.family]
    if name == TINY:
        return FAMILIES[TINY_FAMILY]
    if Path(name).is_dir():
        return None
    return next((family for family in known_families() if family.hidden_size_of(name) is not None), None)
