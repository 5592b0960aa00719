"""Loads a backbone from a Hub name or a folder; all weights of the project come in here."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reelnest.backbones.attention import choose_attention
from reelnest.backbones.family import Family
from reelnest.backbones.registry import family_for, mark_family
from reelnest.errors import ModelError
from reelnest.messages import some_of
from reelnest.settings import Model

logger = logging.getLogger(__name__)

PICKLED = ("*.bin", "*.pkl", "*.pickle", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class LoadedBackbone:
    """A model without its language head, its family and its tokenizer."""

    family: Family
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_backbone(
    settings: Model, base: str | Path, device: torch.device | None = None, autocast_dtype: torch.dtype | None = None
) -> LoadedBackbone:
    """Loads the model at `base`, a Hub name or a folder, with the attention and dtype of `settings`.

    `device` is where the model will run, by default a GPU if there is one; the attention depends on it and on `autocast_dtype`.

    Reads only safetensors, and runs no code of the checkpoint. Raises ModelError for a folder without weights, with pickled weights, of an
    unknown family, or with weights missing (transformers would fill those with random numbers and continue).
    """
    folder = Path(base)
    if folder.is_dir():
        check_weights_folder(folder, settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    attention = choose_attention(settings.attention, device, autocast_dtype or getattr(torch, settings.dtype))
    revision = settings.revision if not folder.is_dir() else None
    try:
        with quiet_transformers():
            family = family_for(settings, base, revision)
            tokenizer = AutoTokenizer.from_pretrained(str(base), trust_remote_code=False, revision=revision)
            quantization = _quantization(settings, family)
            loaded: Any = AutoModel.from_pretrained(
                str(base),
                trust_remote_code=False,
                revision=revision,
                use_safetensors=True,
                dtype=getattr(torch, settings.dtype),
                attn_implementation=attention,
                quantization_config=quantization,
                device_map=None if quantization is None else {"": torch.cuda.current_device()},
                key_mapping=family.renamed_weights,
                output_loading_info=True,
            )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:  # as transformers raises for damaged files
        where = f"folder {base}" if folder.is_dir() else f"'{base}' at revision {settings.revision}"
        raise ModelError(f"The model of {where} cannot be opened: {error}") from error
    model: PreTrainedModel
    model, report = loaded
    _check_report(report, base, family)
    if model.config.video_token_id != tokenizer.convert_tokens_to_ids(family.video_token):
        raise ModelError(
            f"{base}: config.json and the tokenizer have different ids for {family.video_token}. Use the tokenizer files of the"
            " same checkpoint."
        )
    mark_family(model.config, family)
    family.prepare(model, attention)
    return LoadedBackbone(family, model, tokenizer)


def check_weights_folder(folder: Path, settings: Model) -> None:
    """Raises ModelError unless `folder` has a known family's config and safetensors weights, and nothing pickled."""
    refuse_pickles(folder)
    family_for(settings, folder, None)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no weights (*.safetensors). Copy the folder again, with its large files.")


def refuse_pickles(folder: Path) -> None:
    """Raises ModelError if `folder` holds pickled files: opening them may run code of their author."""
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder}: holds pickled files ({some_of(pickled)}), which could run code when opened. "
            "Remove them and use the model's safetensors files, or convert them with safetensors.torch."
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the progress bars and reports of transformers; this module raises or logs what matters."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_report(report: dict[str, Any], base: str | Path, family: Family) -> None:
    bad = sorted(report["missing_keys"]) + [str(key) for key in sorted(report["mismatched_keys"], key=str)]
    if bad:
        raise ModelError(
            f"{base}: {len(bad)} weights are missing or of the wrong shape, such as {bad[0]}. "
            "The model would be partly random. Download the checkpoint again."
        )
    unused = sorted(key for key in report["unexpected_keys"] if not key.startswith("lm_head"))
    if unused:
        logger.warning("%s: weights that are not part of %s are ignored: %s", base, family.title, some_of(unused))


def _quantization(settings: Model, family: Family) -> BitsAndBytesConfig | None:
    if not settings.load_in_4bit:
        return None
    if not torch.cuda.is_available():
        raise ModelError("model.load_in_4bit needs a GPU, and this machine has none. Set it to false.")
    if find_spec("bitsandbytes") is None:
        raise ModelError("model.load_in_4bit needs the package bitsandbytes. Run `pip install bitsandbytes`, or set it to false.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        # The tower has a sixth of the weights and loses most quality in 4 bits.
        llm_int8_skip_modules=[family.vision_module],
    )
