"""Qwen2.5-VL: https://huggingface.co/collections/Qwen/qwen25-vl. Vision attention uses windows; temporal positions count seconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

from reelnest.backbones.family import FAMILIES, License, ModelFlops, PackedTokens
from reelnest.settings import Preprocess, Tiny
from reelnest.video.vision_spec import Grid, VisionSpec

if TYPE_CHECKING:  # these take seconds to import
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from reelnest.backbones.attention import Attention
    from reelnest.backbones.prompt import Prompt, Tokenizer
    from reelnest.backbones.segments import Segment

VISION = VisionSpec(
    patch_size=14,
    merge_size=2,
    temporal_patch_size=2,
    # CLIP's.
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
WINDOW_SIZE = 112
"""Side of the vision tower's attention windows, in pixels. A smaller frame is one window."""

END, VIDEO_START, VIDEO_END, VIDEO = "<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
TURN_END, IMAGE = "<|im_end|>", "<|image_pad|>"
TINY_TOKENS_PER_SECOND = 4
"""Temporal positions per second. The published models have 2, which would give different times of a short clip the same position."""

# From the config.json of Qwen/Qwen2.5-VL-{3B,7B,32B,72B}-Instruct: hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
# num_key_value_heads, vocab_size; the tower's intermediate_size. The tests compare the resulting numbers of parameters with the sizes of
# the published files.
SIZES = {
    "3B": ((2048, 11008, 36, 16, 2, 151936), 3420),
    "7B": ((3584, 18944, 28, 28, 4, 152064), 3420),
    "32B": ((5120, 27648, 64, 40, 8, 152064), 3456),
    "72B": ((8192, 29568, 80, 64, 8, 152064), 3456),
}
_SIZE_NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
# From the model cards of Qwen/Qwen2.5-VL-*-Instruct.
LICENSES = {
    "3B": License("other", "qwen-research", "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE"),
    "7B": License("apache-2.0"),
    "32B": License("apache-2.0"),
    "72B": License("other", "qwen", "https://huggingface.co/Qwen/Qwen2.5-VL-72B-Instruct/blob/main/LICENSE"),
}


class Qwen25VL:
    """Implements the protocol `Family`, which documents each member."""

    title = "Qwen2.5-VL"
    model_type = "qwen2_5_vl"
    vision = VISION
    vision_module = "visual"
    language_module = "language_model"
    video_token = VIDEO
    special_tokens: tuple[str, ...] = (END, VIDEO_START, VIDEO_END, VIDEO)
    tiny_tokens: tuple[str, ...] = (END, "<|im_start|>", TURN_END, VIDEO_START, VIDEO_END, IMAGE, VIDEO)
    chat_template = (
        "{%- for message in messages -%}"
        "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
        f"{{%- for part in message.content if part.type == 'video' -%}}{{{{- '{VIDEO_START}{VIDEO}{VIDEO_END}' -}}}}{{%- endfor -%}}"
        "{%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}"
        "{%- endif -%}{%- endfor -%}"
        f"{{{{- '{END}' -}}}}"
    )
    language_targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    vision_targets = r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate_proj|up_proj|down_proj))"
    wrap_classes: tuple[str, ...] = ("Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock")
    # Some trainers save these names, which transformers maps only for the model with a language head.
    renamed_weights: Mapping[str, str] = {r"^model\.visual\.": "visual.", r"^model\.language_model\.": "language_model."}
    published_names = tuple(f"Qwen2.5-VL-{size}" for size in SIZES)

    def claims(self, config: Mapping[str, object]) -> bool:
        return config.get("model_type") == self.model_type

    def hidden_size_of(self, name: str) -> int | None:
        size = _size(name)
        return SIZES[size][0][0] if size else None

    def license_of(self, name: str) -> License | None:
        # Only the publisher's own: the name of a derived checkpoint does not give its licence.
        match = re.fullmatch(r"Qwen/Qwen2\.5-VL-(\d+B)-Instruct", name)
        return LICENSES.get(match[1]) if match else None

    def config_of(self, name: str) -> PreTrainedConfig:
        from transformers import Qwen2_5_VLConfig

        size = _size(name)
        if size is None:
            raise ValueError(f"{name} is not a known checkpoint")
        text, vision_width = SIZES[size]
        return Qwen2_5_VLConfig(
            text_config={
                **dict(zip(_SIZE_NAMES, text, strict=True)),
                "max_position_embeddings": 128_000,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
            },
            vision_config={
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": vision_width,
                "num_heads": 16,
                "out_hidden_size": text[0],
                "patch_size": VISION.patch_size,
                "spatial_merge_size": VISION.merge_size,
                "temporal_patch_size": VISION.temporal_patch_size,
                "tokens_per_second": 2,
                "window_size": WINDOW_SIZE,
                "fullatt_block_indexes": [7, 15, 23, 31],
            },
        )

    def tiny_config(self, settings: Tiny, vocabulary: int, token: Callable[[str], int]) -> PreTrainedConfig:
        """Has all components of the real one: window attention in the vision tower, merger, three-dimensional rotary positions."""
        from transformers import Qwen2_5_VLConfig

        half_head = settings.hidden_size // settings.heads // 2
        return Qwen2_5_VLConfig(
            text_config={
                "vocab_size": vocabulary,
                "hidden_size": settings.hidden_size,
                "intermediate_size": 3 * settings.hidden_size,
                "num_hidden_layers": settings.layers,
                "num_attention_heads": settings.heads,
                "num_key_value_heads": settings.heads,
                "max_position_embeddings": 32768,
                "initializer_range": settings.initializer_range,
                # The published proportions of time, height and width (16, 24, 24 of 64), applied to half a head.
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "mrope_section": [half_head // 4, half_head * 3 // 8, half_head * 3 // 8],
                },
                "bos_token_id": token(END),
                "eos_token_id": token(TURN_END),
                # No pad_token_id: it would freeze that token's embedding at zero, and padding uses the token that ends a row.
            },
            vision_config={
                "depth": settings.vision_layers,
                "hidden_size": settings.vision_hidden_size,
                "intermediate_size": 3 * settings.vision_hidden_size,
                "num_heads": settings.vision_heads,
                "out_hidden_size": settings.hidden_size,
                "patch_size": VISION.patch_size,
                "spatial_merge_size": VISION.merge_size,
                "temporal_patch_size": VISION.temporal_patch_size,
                "tokens_per_second": TINY_TOKENS_PER_SECOND,
                "window_size": WINDOW_SIZE,
                "fullatt_block_indexes": [settings.vision_layers - 1],
                "initializer_range": settings.initializer_range,
            },
            image_token_id=token(IMAGE),
            video_token_id=token(VIDEO),
            vision_start_token_id=token(VIDEO_START),
            vision_end_token_id=token(VIDEO_END),
        )

    def tiny_tokenizer(self, texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
        from reelnest.backbones.tiny import train_tokenizer

        return train_tokenizer(texts, vocabulary, self.tiny_tokens, end_of_text=TURN_END, padding=END)

    def prompt(self, tokenizer: Tokenizer) -> Prompt:
        from reelnest.backbones.prompt import BlockPrompt

        return BlockPrompt(tokenizer, self.vision, start=VIDEO_START, placeholder=VIDEO, stop=VIDEO_END, end=END)

    def processor_config(self, sampling: Preprocess) -> dict[str, object]:
        pixels = {
            "size": {"shortest_edge": sampling.min_pixels, "longest_edge": sampling.max_pixels},
            "image_mean": list(VISION.mean),
            "image_std": list(VISION.std),
            "patch_size": VISION.patch_size,
            "merge_size": VISION.merge_size,
            "temporal_patch_size": VISION.temporal_patch_size,
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

    def prepare(self, model: PreTrainedModel, attention: Attention) -> None:
        from reelnest.backbones.attention import group_vision_attention, pack_text_attention
        from reelnest.backbones.patch_projection import project_patches_by_matrix

        tower: Any = model.get_submodule(self.vision_module)
        language_model: Any = model.get_submodule(self.language_module)
        project_patches_by_matrix(tower)
        if attention == "sdpa":
            group_vision_attention(tower)
            pack_text_attention(language_model)

    def video_width(self, config: PreTrainedConfig) -> int:
        return int(config.get_text_config().hidden_size)

    def encode_video(self, tower: PreTrainedModel, pixels: Tensor, grid_thw: Tensor) -> Tensor:
        from reelnest.backbones.positions import vision_index

        vision: Any = tower.config
        index = vision_index(grid_thw, vision.spatial_merge_size, vision.window_size, vision.patch_size)
        device = tower.device
        on_gpu = index._replace(position_ids=index.position_ids.to(device), window_index=index.window_index.to(device))
        if vision._attn_implementation == "flash_attention_2":
            on_gpu = on_gpu._replace(cu_seqlens=index.cu_seqlens.to(device), cu_window_seqlens=index.cu_window_seqlens.to(device))
        tokens: Tensor = tower(pixels, grid_thw=grid_thw, **on_gpu._asdict()).pooler_output
        return tokens

    def positions(self, segment: Segment, config: PreTrainedConfig) -> Tensor:
        from reelnest.backbones.positions import token_positions

        vision: Any = config.vision_config
        interval = None if segment.second_per_grid_ts is None else vision.tokens_per_second * segment.second_per_grid_ts
        return token_positions(segment, vision.spatial_merge_size, interval)

    def encode_tokens(self, language_model: PreTrainedModel, tokens: PackedTokens) -> Tensor:
        from reelnest.backbones.attention import packed_arguments

        if tokens.is_video is not None and tokens.video is not None:
            tokens.embedded = tokens.embedded.masked_scatter(tokens.is_video[:, None], tokens.video.to(tokens.embedded.dtype))
            tokens.video = None  # frees its memory while the layers run
        hidden: Tensor = language_model(
            inputs_embeds=tokens.embedded[None],
            position_ids=tokens.positions[:, None],
            use_cache=False,
            **packed_arguments(language_model, tokens.packing),
        ).last_hidden_state[0]
        return hidden

    def compiled_modules(self, language_model: PreTrainedModel) -> Iterator[nn.Module]:
        layers: Any = language_model.layers
        for layer in layers:
            yield from (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm)

    def flops(self, model: PreTrainedModel) -> ModelFlops:
        """Attention costs 4 times the width per pair of tokens forward, counting all pairs of a sequence."""
        from reelnest.backbones.flops import matrix_flops, trains

        tower: Any = model.get_submodule(self.vision_module)
        language_model: Any = model.get_submodule(self.language_module)
        vision, text = tower.config, language_model.config
        # A frozen tower has no backward pass. If any weight of the language model trains, its backward pass reaches the first layer.
        # Pixels need no gradient.
        passes = 3 if trains(tower) else 1
        patch = matrix_flops([tower.patch_embed], backward=False) + matrix_flops(tower.blocks, backward=trains(tower))
        token = matrix_flops([tower.merger], backward=trains(tower))
        full = len(vision.fullatt_block_indexes)

        def of_video(grid: Grid) -> float:
            windows, frames = _pairs_of_patches(grid, vision)
            pairs = windows * (len(tower.blocks) - full) + frames * full
            return patch * prod(grid) + token * VISION.tokens(grid) + passes * 4 * vision.hidden_size * pairs

        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return ModelFlops(
            token=matrix_flops(language_model.layers, backward=trains(model)),
            pair=4 * text.num_attention_heads * head * text.num_hidden_layers * (3 if trains(model) else 1),
            video=of_video,
        )


def _size(name: str) -> str | None:
    match = re.search(r"Qwen2\.5-VL-(\d+B)", name)
    return match[1] if match and match[1] in SIZES else None


def _pairs_of_patches(grid: Grid, vision: Any) -> tuple[int, int]:
    """Returns the number of patch pairs of one video that share a window, and that share a frame."""
    import torch

    from reelnest.backbones.positions import vision_index

    index = vision_index(torch.tensor([grid]), vision.spatial_merge_size, vision.window_size, vision.patch_size)
    windows, frames = (
        sum((end - start) ** 2 for start, end in pairwise(ends.tolist())) for ends in (index.cu_window_seqlens, index.cu_seqlens)
    )
    return windows, frames


FAMILY = FAMILIES.register("qwen2_5_vl")(Qwen25VL())
