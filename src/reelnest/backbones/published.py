"""The published Qwen2.5-VL checkpoints' sizes, so that questions about them can be answered without a download.

Source: the `config.json` of Qwen/Qwen2.5-VL-{3B,7B,32B,72B}-Instruct. The tests hold the numbers of parameters that follow from them to the
sizes of the published files.
"""

import re
from pathlib import Path

from transformers import AutoConfig, Qwen2_5_VLConfig

from reelnest.backbones.tiny import SPECIAL_TOKENS, tiny_config
from reelnest.errors import ModelError
from reelnest.settings import Model

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, vocab_size; the tower's intermediate_size
_SIZES = {
    "3B": ((2048, 11008, 36, 16, 2, 151936), 3420),
    "7B": ((3584, 18944, 28, 28, 4, 152064), 3420),
    "32B": ((5120, 27648, 64, 40, 8, 152064), 3456),
    "72B": ((8192, 29568, 80, 64, 8, 152064), 3456),
}
_NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")


def backbone_config(settings: Model) -> Qwen2_5_VLConfig:
    """The architecture that `model.name_or_path` has, read or known without its weights and without the Hub.

    `tiny` counts with as large a vocabulary as it may get. Raises ModelError for a Hub name that is not known here.
    """
    if settings.name_or_path == "tiny":
        return tiny_config(settings.tiny, settings.tiny.vocabulary, SPECIAL_TOKENS.index)
    folder = Path(settings.name_or_path)
    if folder.is_dir():
        try:
            found = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: its config.json cannot be read: {error}") from error
        if not isinstance(found, Qwen2_5_VLConfig):
            raise ModelError(f"{folder / 'config.json'}: model_type is {found.model_type}; expected a Qwen2.5-VL.")
        return found
    size = re.search(r"Qwen2\.5-VL-(\d+B)", settings.name_or_path)
    if size is None or size[1] not in _SIZES:
        raise ModelError(
            f"model.name_or_path: the sizes of '{settings.name_or_path}' are not known without the Hub (known: Qwen2.5-VL-"
            f"{', -'.join(_SIZES)}). Download it and give its folder."
        )
    return published_config(size[1])


def published_config(size: str) -> Qwen2_5_VLConfig:
    """The architecture of Qwen2.5-VL-`size`-Instruct."""
    text, vision = _SIZES[size]
    return Qwen2_5_VLConfig(
        text_config={
            **dict(zip(_NAMES, text, strict=True)),
            "max_position_embeddings": 128_000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": vision,
            "num_heads": 16,
            "out_hidden_size": text[0],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    )
