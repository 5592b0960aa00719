"""A model's architecture, without its weights and without the Hub."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from reelnest.backbones.family import Family
from reelnest.backbones.registry import TINY, family_for, known_families, local_family_of, mark_family
from reelnest.errors import ModelError
from reelnest.settings import Model


def backbone_config(settings: Model) -> PreTrainedConfig:
    """Returns the architecture of `model.name_or_path`.

    The vocabulary of `tiny` has its largest size. Raises ModelError for an unknown Hub name.
    """
    folder = Path(settings.name_or_path)
    if folder.is_dir():
        family = family_for(settings, folder, None)
        try:
            return _marked(AutoConfig.from_pretrained(str(folder), trust_remote_code=False), family)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: its config.json cannot be read: {error}") from error
    known = local_family_of(settings)
    if known is None:
        names = ", ".join(name for family in known_families() for name in family.published_names)
        raise ModelError(
            f"model.name_or_path: the sizes of '{settings.name_or_path}' are not known without the Hub (known: {names}). "
            "Download the model and set model.name_or_path to its folder."
        )
    if settings.name_or_path == TINY:
        return _marked(known.tiny_config(settings.tiny, settings.tiny.vocabulary, known.tiny_tokens.index), known)
    return _marked(known.config_of(settings.name_or_path), known)


def _marked(config: PreTrainedConfig, family: Family) -> PreTrainedConfig:
    mark_family(config, family)
    return config


def hidden_size(config: PreTrainedConfig) -> int:
    """Returns the width of the language model."""
    return int(config.get_text_config().hidden_size)
