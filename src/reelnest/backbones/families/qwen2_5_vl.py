"""Qwen2.5-VL: https://huggingface.co/collections/Qwen/qwen25-vl. Vision attention uses windows; temporal positions count seconds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from reelnest.backbones.family import FAMILIES, License
from reelnest.backbones.qwen_vl import QwenVL, published_text, special_ids, tiny_text, vision_sizes
from reelnest.settings import Tiny
from reelnest.video.vision_spec import Grid

if TYPE_CHECKING:  # these take seconds to import
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from reelnest.backbones.segments import Segment

VISION = QwenVL.vision
WINDOW_SIZE = 112
"""Side of the vision tower's attention windows, in pixels. A smaller frame is one window."""

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
WIDTHS = {size: text[0] for size, (text, _) in SIZES.items()}
# From the model cards of Qwen/Qwen2.5-VL-*-Instruct.
LICENSES = {
    "3B": License("other", "qwen-research", "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE"),
    "7B": License("apache-2.0"),
    "32B": License("apache-2.0"),
    "72B": License("other", "qwen", "https://huggingface.co/Qwen/Qwen2.5-VL-72B-Instruct/blob/main/LICENSE"),
}


class Qwen25VL(QwenVL):
    """Implements the protocol `Family`, which documents each member."""

    title = "Qwen2.5-VL"
    model_type = "qwen2_5_vl"
    processor = "Qwen2_5_VLProcessor"
    vision_targets = r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate_proj|up_proj|down_proj))"
    wrap_classes: tuple[str, ...] = ("Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock")
    widths = WIDTHS
    licenses = LICENSES

    def config_of(self, name: str) -> PreTrainedConfig:
        from transformers import Qwen2_5_VLConfig

        text, vision_width = SIZES[self.size_of(name) or ""]
        return Qwen2_5_VLConfig(
            text_config=published_text(text, 128_000),
            vision_config={
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": vision_width,
                "num_heads": 16,
                "out_hidden_size": text[0],
                **vision_sizes(VISION),
                "tokens_per_second": 2,
                "window_size": WINDOW_SIZE,
                "fullatt_block_indexes": [7, 15, 23, 31],
            },
        )

    def tiny_config(self, settings: Tiny, vocabulary: int, token: Callable[[str], int]) -> PreTrainedConfig:
        """Has all components of the real one: window attention in the vision tower, merger, three-dimensional rotary positions."""
        from transformers import Qwen2_5_VLConfig

        return Qwen2_5_VLConfig(
            text_config=tiny_text(settings, vocabulary, token),
            vision_config={
                "depth": settings.vision_layers,
                "hidden_size": settings.vision_hidden_size,
                "intermediate_size": 3 * settings.vision_hidden_size,
                "num_heads": settings.vision_heads,
                "out_hidden_size": settings.hidden_size,
                **vision_sizes(VISION),
                "tokens_per_second": TINY_TOKENS_PER_SECOND,
                "window_size": WINDOW_SIZE,
                "fullatt_block_indexes": [settings.vision_layers - 1],
                "initializer_range": settings.initializer_range,
            },
            **special_ids(token),
        )

    def encode_video(self, tower: PreTrainedModel, pixels: Tensor, grid_thw: Tensor) -> Tensor:
        from reelnest.backbones.positions import tower_arguments, vision_index

        vision: Any = tower.config
        index = vision_index(grid_thw, vision.spatial_merge_size, vision.window_size, vision.patch_size)
        tokens: Tensor = tower(pixels, grid_thw=grid_thw, **tower_arguments(index, tower)).pooler_output
        return tokens

    def positions(self, segment: Segment, config: PreTrainedConfig) -> Tensor:
        from reelnest.backbones.positions import token_positions

        vision: Any = config.vision_config
        interval = None if segment.second_per_grid_ts is None else vision.tokens_per_second * segment.second_per_grid_ts
        return token_positions(segment, vision.spatial_merge_size, interval)

    def attended_pairs(self, tower: Any, grid: Grid) -> int:
        """Returns those of the same window, and in some layers of the same frame."""
        full = len(tower.config.fullatt_block_indexes)
        windows, frames = _pairs_of_patches(grid, tower.config)
        return windows * (len(tower.blocks) - full) + frames * full


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
