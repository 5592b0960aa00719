"""What sentence-transformers (6.2 or newer) needs in a saved model's folder to give the same vectors, with modules of its own alone.

modules.json                          backbone, pooling, projection where there is one, unit length
config_sentence_transformers.json     instructions as prompts: `encode_query` and `encode_document` use them
sentence_bert_config.json             the backbone: text and video both come as a chat message
chat_template.jinja                   a message as our tokens: instruction, video, text, end
processor_config.json                 frames to patches, as ours; transformers wants torchvision to open it
pooling/, projection/                 settings, and the projection's weights, which reelnest reads there too

It reads frames and not files: `video_reading.videos_for_sentence_transformers` gives those that were trained on. It cannot cut the text of
a video or of a document after `max_text_tokens`, and reads all of it; searches are cut as ours.
"""

from pathlib import Path
from typing import Any

from reelnest.atomic_files import write_json
from reelnest.backbones.family import Family
from reelnest.backbones.prompt import Tokenizer
from reelnest.settings import Model, Preprocess

VERSION = "6.2.0"
"""Older versions say that they are when they open the folder. They have no video."""
MODULES = "sentence_transformers.sentence_transformer.modules"
POOLING_FOLDER = "pooling"
PROJECTION_FOLDER = "projection"
UNPOOLABLE = "reelnest.SavedModel"
"""Stands in modules.json where their pooling cannot do what ours does: a class that is not theirs, which they refuse to open."""


def can_be_opened(settings: Model) -> bool:
    """Whether their modules give our vectors.

    They cannot leave an instruction out of the mean where inputs are chat messages, and video can come in no other way.
    """
    return settings.pooling == "last" or not (settings.query_instruction or settings.target_instruction)


def write_sentence_transformer_files(
    folder: Path, tokenizer: Tokenizer, settings: Model, preprocess: Preprocess, family: Family, hidden: int
) -> None:
    """Writes all but the weights. `hidden` is the backbone's width.

    Where `can_be_opened` is false, only a modules.json that makes sentence-transformers refuse the folder: without one it would pool in a
    way of its own, and give other vectors.
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
        [{"idx": i, "name": str(i), "path": path, "type": f"{MODULES}.{name}"} for i, (path, name) in enumerate(modules)],
    )
    prompts = {"query": _prompt(settings.query_instruction), "document": _prompt(settings.target_instruction)}
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
    write_json(folder / "processor_config.json", family.processor_config(preprocess))
    (folder / "chat_template.jinja").write_text(family.chat_template, encoding="utf-8")


def _transformer(tokenizer: Tokenizer, settings: Model, family: Family) -> dict[str, Any]:
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    prompt = family.prompt(tokenizer)
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": forward, "video": forward, "message": {**forward, "format": "structured"}},
        "module_output_name": "token_embeddings",
        # They cut the whole sequence, and put the end token back. Of documents nothing may be cut: they may be videos.
        "query_length": len(prompt.instruction(settings.query_instruction)) + settings.max_text_tokens + len(prompt.end),
        "unpad_inputs": False,  # transformers' positions are of padded rows
    }


def _write_module(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", settings)


def _prompt(instruction: str) -> str:
    return f"{instruction}\n" if instruction else ""
