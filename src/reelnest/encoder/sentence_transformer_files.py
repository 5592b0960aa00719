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
from reelnest.encoder.batches import END_TOKEN, VIDEO_PAD, VISION_END, VISION_START
from reelnest.settings import Model, Preprocess
from reelnest.video.patches import IMAGE_MEAN, IMAGE_STD, MERGE_SIZE, PATCH_SIZE, TEMPORAL_PATCH_SIZE

VERSION = "6.2.0"
"""Older versions say that they are when they open the folder. They have no video."""
MODULES = "sentence_transformers.sentence_transformer.modules"
POOLING_FOLDER = "pooling"
PROJECTION_FOLDER = "projection"
UNPOOLABLE = "reelnest.SavedModel"
"""Stands in modules.json where their pooling cannot do what ours does: a class that is not theirs, which they refuse to open."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    f"{{%- for part in message.content if part.type == 'video' -%}}{{{{- '{VISION_START}{VIDEO_PAD}{VISION_END}' -}}}}{{%- endfor -%}}"
    "{%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}"
    "{%- endif -%}{%- endfor -%}"
    f"{{{{- '{END_TOKEN}' -}}}}"
)


def can_be_opened(settings: Model) -> bool:
    """Whether their modules give our vectors.

    They cannot leave an instruction out of the mean where inputs are chat messages, and video can come in no other way.
    """
    return settings.pooling == "last" or not (settings.query_instruction or settings.target_instruction)


def write_sentence_transformer_files(folder: Path, tokenizer: Any, settings: Model, preprocess: Preprocess, hidden: int) -> None:
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
    write_json(folder / "sentence_bert_config.json", _transformer(tokenizer, settings, prompts["query"]))
    write_json(folder / "processor_config.json", _processor(preprocess))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _transformer(tokenizer: Any, settings: Model, query_prompt: str) -> dict[str, Any]:
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    instruction = tokenizer(query_prompt, add_special_tokens=False)["input_ids"] if query_prompt else []
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": forward, "video": forward, "message": {**forward, "format": "structured"}},
        "module_output_name": "token_embeddings",
        # They cut the whole sequence, and put the end token back. Of documents nothing may be cut: they may be videos.
        "query_length": len(instruction) + settings.max_text_tokens + 1,
        "unpad_inputs": False,  # Qwen2.5-VL's positions are of padded rows
    }


def _processor(preprocess: Preprocess) -> dict[str, Any]:
    pixels = {
        "size": {"shortest_edge": preprocess.min_pixels, "longest_edge": preprocess.max_pixels},
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
    }
    return {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor": {"image_processor_type": "Qwen2VLImageProcessor", **pixels},
        "video_processor": {
            "video_processor_type": "Qwen2VLVideoProcessor",
            "do_sample_frames": False,
            "cap_pixels_per_frame": False,
            **pixels,
        },
    }


def _write_module(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", settings)


def _prompt(instruction: str) -> str:
    return f"{instruction}\n" if instruction else ""
