"""Files with which sentence-transformers (6.2 or newer) computes the same vectors from a saved model, with its own modules.

modules.json                          backbone, pooling, optional projection, normalisation
config_sentence_transformers.json     instructions as prompts for `encode_query` and `encode_document`
sentence_bert_config.json             the backbone: text and video arrive as a chat message
chat_template.jinja                   a message in our token layout: instruction, video, text, end
processor_config.json                 frames to patches, as ours, and how many frames; transformers needs torchvision to open it
preprocessor_config.json, video_preprocessor_config.json   the same, where older programs look
pooling/, projection/                 settings, and the projection's weights, which reelnest reads too

sentence-transformers takes frames, not files: `saved.videos_for_sentence_transformers` samples and resizes them as in training. It
truncates queries to `max_text_tokens` as we do, but cannot truncate the text of a video or document.
"""

from pathlib import Path
from typing import Any

from reelnest.atomic_files import write_json
from reelnest.backbones.family import Family
from reelnest.backbones.prompt import Tokenizer
from reelnest.settings import Model, Preprocess

VERSION = "6.2.0"
"""Older versions have no video, and report that they are older when they open the folder."""
MODULES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
}
"""Classes by name. vLLM knows these full names, and leaves out a module under another one."""
PROCESSOR_FILES = {"preprocessor_config.json": "image_processor", "video_preprocessor_config.json": "video_processor"}
"""Older programs read the image and the video processor from files of their own."""
POOLING_FOLDER = "pooling"
PROJECTION_FOLDER = "projection"
UNPOOLABLE = "reelnest.SavedModel"
"""An unknown class for modules.json, which makes sentence-transformers refuse a model with a pooling that it lacks."""


def can_be_opened(settings: Model) -> bool:
    """Returns whether sentence-transformers' modules compute our vectors.

    They cannot exclude an instruction from the mean for chat messages, and video needs chat messages.
    """
    return settings.pooling == "last" or not (settings.query_instruction or settings.target_instruction)


def write_sentence_transformer_files(
    folder: Path, tokenizer: Tokenizer, settings: Model, preprocess: Preprocess, family: Family, hidden: int
) -> None:
    """Writes all files but the weights. `hidden` is the backbone's width.

    If `can_be_opened` is false, writes only a modules.json that sentence-transformers refuses. Without that file it would use a default
    pooling and compute other vectors.
    """
    if not can_be_opened(settings):
        write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": UNPOOLABLE}])
        return
    modules = [("", "Transformer"), (POOLING_FOLDER, "Pooling")]
    _write_module(
        folder / POOLING_FOLDER,
        {"embedding_dimension": hidden, "pooling_mode": "mean" if settings.pooling == "mean" else "lasttoken", "include_prompt": True},
    )
    if settings.projection is not None:
        modules.append((PROJECTION_FOLDER, "Dense"))
        linear = {"in_features": hidden, "out_features": settings.projection, "bias": False}
        _write_module(folder / PROJECTION_FOLDER, {**linear, "activation_function": "torch.nn.modules.linear.Identity"})
    modules.append(("normalize", "Normalize"))
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": MODULES[name]} for i, (path, name) in enumerate(modules)],
    )
    prompts = {
        "query": family.system_message(settings.query_instruction),
        "document": family.system_message(settings.target_instruction),
    }
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "__version__": {"sentence_transformers": VERSION},
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    write_json(folder / "sentence_bert_config.json", _transformer(tokenizer, settings, family))
    processor = family.processor_config(preprocess)
    write_json(folder / "processor_config.json", processor)
    for name, key in PROCESSOR_FILES.items():
        if key in processor:
            write_json(folder / name, processor[key])
    (folder / "chat_template.jinja").write_text(family.chat_template, encoding="utf-8")


def _transformer(tokenizer: Tokenizer, settings: Model, family: Family) -> dict[str, Any]:
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    prompt = family.prompt(tokenizer)
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": forward, "video": forward, "message": {**forward, "format": "structured"}},
        "module_output_name": "token_embeddings",
        # Frames arrive resized. Resizing rounds sides down to whole tokens, so their area may be outside of the bounds, and the processor
        # would resize them again.
        "processing_kwargs": {"video": {"do_resize": False}},
        # They truncate the whole sequence and restore the end token. Documents are not truncated: they may be videos.
        "query_length": len(prompt.instruction(settings.query_instruction)) + settings.max_text_tokens + len(prompt.end),
        "unpad_inputs": False,  # transformers computes positions for padded rows
    }


def _write_module(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", settings)
