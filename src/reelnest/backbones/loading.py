"""The one way by which weights come in: a Hub name, a folder of ours or of anyone's, the tiny model."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, BitsAndBytesConfig, Qwen2_5_VLModel
from transformers.utils import logging as transformers_logging

from reelnest.backbones.attention import choose_attention, group_vision_attention, pack_text_attention
from reelnest.backbones.patch_projection import project_patches_by_matrix
from reelnest.errors import ModelError
from reelnest.settings import Model

logger = logging.getLogger(__name__)

PICKLED = ("*.bin", "*.pkl", "*.pickle", "*.pt", "*.pth", "*.ckpt")
MODEL_TYPE = "qwen2_5_vl"
NEWER_NAMES = {r"^model\.visual\.": "visual.", r"^model\.language_model\.": "language_model."}
"""Weights of models with a language head, as some trainers save them. transformers knows these names only for the model with its head."""


def load_backbone(settings: Model, base: str | Path) -> tuple[Qwen2_5_VLModel, Any]:
    """The Qwen2.5-VL model without its language head, and its tokenizer, with the attention and dtype of `settings`.

    Only safetensors are read and no code of the checkpoint's is run. Raises ModelError for a folder without weights, with pickled ones, of
    another architecture, or with weights missing (transformers would fill those with random numbers and go on).
    """
    folder = Path(base)
    if folder.is_dir():
        check_weights_folder(folder)
    attention = choose_attention(settings.attention, settings.dtype)
    options: dict[str, Any] = {"trust_remote_code": False, "revision": settings.revision if not folder.is_dir() else None}
    quantization = _quantization(settings)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(base), **options)
            loaded: Any = Qwen2_5_VLModel.from_pretrained(
                str(base),
                **options,
                use_safetensors=True,
                dtype=getattr(torch, settings.dtype),
                attn_implementation=attention,
                quantization_config=quantization,
                device_map=None if quantization is None else {"": torch.cuda.current_device()},
                key_mapping=NEWER_NAMES,
                output_loading_info=True,
            )
    except (OSError, ValueError, SafetensorError) as error:
        where = f"folder {base}" if folder.is_dir() else f"'{base}' at revision {settings.revision}"
        raise ModelError(f"The model of {where} cannot be opened: {error}") from error
    backbone: Qwen2_5_VLModel
    backbone, report = loaded
    _check_report(report, base)
    if backbone.config.video_token_id != tokenizer.convert_tokens_to_ids("<|video_pad|>"):
        raise ModelError(
            f"{base}: config.json and the tokenizer disagree about the number of <|video_pad|>: tokenizer files are missing or foreign."
        )
    project_patches_by_matrix(backbone.visual)
    if attention == "sdpa":
        group_vision_attention(backbone.visual)
        pack_text_attention(backbone.language_model)
    return backbone, tokenizer


def check_weights_folder(folder: Path) -> None:
    """Raises ModelError unless `folder` holds a Qwen2.5-VL config and safetensors weights, and nothing pickled."""
    refuse_pickles(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(
            f"{folder}: no config.json, so this is no model in Hugging Face format. Point model.name_or_path at a folder that has one."
        )
    try:
        found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ModelError(f"{config}: not readable as a JSON object: {error}. Copy the model again.") from error
    if found != MODEL_TYPE:
        raise ModelError(f"{config}: model_type is {found!r}; reelnest fine-tunes Qwen2.5-VL (model_type '{MODEL_TYPE}').")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no weights (*.safetensors) in it. Was it copied whole, with its large files?")


def refuse_pickles(folder: Path) -> None:
    """Raises ModelError where `folder` holds files that are unpickled when they are opened: those run code of whoever wrote them."""
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder}: holds pickled files ({', '.join(pickled)}), which could run code when opened. "
            "Only safetensors are read: take the model's safetensors files, or convert these with safetensors.torch, and remove them."
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and reports of transformers' own: what matters of them is raised or logged here."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_report(report: dict[str, Any], base: str | Path) -> None:
    bad = sorted(report["missing_keys"]) + [str(key) for key in sorted(report["mismatched_keys"], key=str)]
    if bad:
        raise ModelError(
            f"{base}: {len(bad)} weights are missing or of the wrong shape, the first: {', '.join(bad[:3])}. "
            "Without them the model would be partly random. Get the whole checkpoint again."
        )
    unused = sorted(key for key in report["unexpected_keys"] if not key.startswith("lm_head"))
    if unused:
        logger.warning(
            "%s: %d weights are not part of Qwen2.5-VL and were left out, the first: %s", base, len(unused), ", ".join(unused[:3])
        )


def _quantization(settings: Model) -> BitsAndBytesConfig | None:
    if not settings.load_in_4bit:
        return None
    if not torch.cuda.is_available():
        raise ModelError("model.load_in_4bit needs a GPU, and there is none here. Set it to false.")
    if find_spec("bitsandbytes") is None:
        raise ModelError("model.load_in_4bit needs the package bitsandbytes: `pip install bitsandbytes`, or set it to false.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        # The tower is a sixth of the weights and suffers most from four bits.
        llm_int8_skip_modules=["visual"],
    )
