"""What vLLM and SGLang need of a saved model besides the files for sentence-transformers.

Both know a family by its class with a language head, and the names of the published weights. The head itself may be missing. vLLM reads the
dims in config.json; no others can be requested.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from reelnest.atomic_files import write_json
from reelnest.backbones.family import Family


def served_weights(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Returns the weights under their published names, which transformers opens without the head too."""
    return {_renamed(name, family.saved_weights): weight for name, weight in state.items()}


def describe_for_servers(folder: Path, family: Family, dims: Sequence[int]) -> None:
    """Adds the class with the head, and the dims, to the folder's config.json."""
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(name := MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(family.model_type), str):
        config["architectures"] = [name]
    write_json(path, config | {"is_matryoshka": True, "matryoshka_dimensions": list(dims)})


def _renamed(name: str, patterns: Mapping[str, str]) -> str:
    for pattern, replacement in patterns.items():
        name, replaced = re.subn(pattern, replacement, name, count=1)
        if replaced:
            break
    return name
