"""Qwen2-VL: https://huggingface.co/collections/Qwen/qwen2-vl. Frames attend to themselves; temporal positions count steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reelnest.backbones.family import FAMILIES, License
from reelnest.backbones.qwen_vl import QwenVL, published_text, special_ids, tiny_text, vision_sizes
from reelnest.settings import Tiny

if TYPE_CHECKING:  # these take seconds to import
    from torch import Tensor
    from transformers import PreTrainedConfig

    from reelnest.backbones.segments import Segment

# From the config.json of Qwen/Qwen2-VL-{2B,7B,72B}-Instruct. The tests compare the resulting numbers of parameters with published ones.
SIZES = {
    "2B": (1536, 8960, 28, 12, 2, 151936),
    "7B": (3584, 18944, 28, 28, 4, 152064),
    "72B": (8192, 29568, 80, 64, 8, 152064),
}
WIDTHS = {size: text[0] for size, text in SIZES.items()}
# From the model cards of Qwen/Qwen2-VL-*-Instruct.
LICENSES = {
    "2B": License("apache-2.0"),
    "7B": License("apache-2.0"),
    "72B": License("other", "tongyi-qianwen", "https://huggingface.co/Qwen/Qwen2-VL-72B-Instruct/blob/main/LICENSE"),
}


class Qwen2VL(QwenVL):
    """Implements the protocol `Family`, which documents each member."""

    title = "Qwen2-VL"
    model_type = "qwen2_vl"
    processor = "Qwen2VLProcessor"
    vision_targets = r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))"
    wrap_classes: tuple[str, ...] = ("Qwen2VLDecoderLayer", "Qwen2VLVisionBlock")
    widths = WIDTHS
    licenses = LICENSES

    def config_of(self, name: str) -> PreTrainedConfig:
        from transformers import Qwen2VLConfig

        text = SIZES[self.size_of(name) or ""]
        return Qwen2VLConfig(
            text_config=published_text(text, 32_768),
            vision_config={
                "depth": 32,
                "embed_dim": 1280,
                "mlp_ratio": 4,
                "num_heads": 16,
                "hidden_size": text[0],
                **vision_sizes(self.vision),
            },
        )

    def tiny_config(self, settings: Tiny, vocabulary: int, token: Callable[[str], int]) -> PreTrainedConfig:
        from transformers import Qwen2VLConfig

        return Qwen2VLConfig(
            text_config=tiny_text(settings, vocabulary, token),
            vision_config={
                "depth": settings.vision_layers,
                "embed_dim": settings.vision_hidden_size,
                "mlp_ratio": 3,
                "num_heads": settings.vision_heads,
                "hidden_size": settings.hidden_size,
                "initializer_range": settings.initializer_range,
                **vision_sizes(self.vision),
            },
            **special_ids(token),
        )

    def positions(self, segment: Segment, config: PreTrainedConfig) -> Tensor:  # noqa: ARG002 (steps do not depend on sizes)
        import torch

        from reelnest.backbones.positions import token_positions

        steps = None if segment.video_grid_thw is None else torch.ones(len(segment.video_grid_thw))
        return token_positions(segment, self.vision.merge_size, steps)


FAMILY = FAMILIES.register("qwen2_vl")(Qwen2VL())
