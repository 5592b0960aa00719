"""Qwen3-VL: https://huggingface.co/collections/Qwen/qwen3-vl. Each step's time is text; early layers of the tower feed the first layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from reelnest.backbones.family import FAMILIES, License, PackedTokens
from reelnest.backbones.qwen_vl import (
    END,
    TEXT_SIZES,
    VIDEO,
    VIDEO_END,
    VIDEO_START,
    QwenVL,
    special_ids,
    tiny_text,
    vision_sizes,
)
from reelnest.settings import Preprocess, Tiny
from reelnest.video.vision_spec import VisionSpec

if TYPE_CHECKING:  # these take seconds to import
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from reelnest.backbones.attention import Attention
    from reelnest.backbones.prompt import Prompt, Tokenizer
    from reelnest.backbones.segments import Segment

HEAD = 128
"""Width of an attention head in all sizes."""
POSITIONS, TINY_POSITIONS = 48, 8
"""Sides of the tables of learnt positions, from which those of a frame are interpolated."""
# From the config.json of Qwen/Qwen3-VL-{2B,4B,8B,32B}-Instruct: the language model (see TEXT_SIZES), and which tower it has.
SIZES = {
    "2B": ((2048, 6144, 28, 16, 8, 151936), "small"),
    "4B": ((2560, 9728, 36, 32, 8, 151936), "small"),
    "8B": ((4096, 12288, 36, 32, 8, 151936), "large"),
    "32B": ((5120, 25600, 64, 64, 8, 151936), "large"),
}
TOWERS: dict[str, dict[str, Any]] = {
    "small": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
    "large": {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
}
WIDTHS = {size: text[0] for size, (text, _) in SIZES.items()}
# From the model cards of Qwen/Qwen3-VL-*-Instruct.
LICENSES = dict.fromkeys(SIZES, License("apache-2.0"))


class Qwen3VL(QwenVL):
    """Implements the protocol `Family`, which documents each member."""

    title = "Qwen3-VL"
    model_type = "qwen3_vl"
    processor, video_processor = "Qwen3VLProcessor", "Qwen3VLVideoProcessor"
    vision = VisionSpec(patch_size=16, merge_size=2, temporal_patch_size=2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    placeholder = VIDEO  # transformers' processor writes the marks of each step
    vision_targets = r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(linear_fc1|linear_fc2))"
    wrap_classes: tuple[str, ...] = ("Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock")
    saved_weights: Mapping[str, str] = {"^": "model."}
    widths = WIDTHS
    licenses = LICENSES

    def config_of(self, name: str) -> PreTrainedConfig:
        from transformers import Qwen3VLConfig

        text, tower = SIZES[self.size_of(name) or ""]
        return Qwen3VLConfig(
            text_config={
                **dict(zip(TEXT_SIZES, text, strict=True)),
                "head_dim": HEAD,
                "max_position_embeddings": 262_144,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 5_000_000.0,
                    "mrope_section": [24, 20, 20],
                    "mrope_interleaved": True,
                },
            },
            vision_config={
                **TOWERS[tower],
                "num_heads": 16,
                "num_position_embeddings": POSITIONS**2,
                "out_hidden_size": text[0],
                **vision_sizes(self.vision),
            },
        )

    def tiny_config(self, settings: Tiny, vocabulary: int, token: Callable[[str], int]) -> PreTrainedConfig:
        """Has all components of the real one: interleaved rotary positions, learnt positions, features of several layers of the tower."""
        from transformers import Qwen3VLConfig

        head = settings.hidden_size // settings.heads
        side = head // 2 * 5 // 16  # the published proportions of time, height and width: 24, 20, 20 of 64
        rotary = {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [head // 2 - 2 * side, side, side],
            "mrope_interleaved": True,
        }
        return Qwen3VLConfig(
            text_config={**tiny_text(settings, vocabulary, token), "head_dim": head, "rope_parameters": rotary},
            vision_config={
                "depth": settings.vision_layers,
                "hidden_size": settings.vision_hidden_size,
                "intermediate_size": 3 * settings.vision_hidden_size,
                "num_heads": settings.vision_heads,
                "num_position_embeddings": TINY_POSITIONS**2,
                "deepstack_visual_indexes": list(range(min(settings.vision_layers - 1, settings.layers))),
                "out_hidden_size": settings.hidden_size,
                "initializer_range": settings.initializer_range,
                **vision_sizes(self.vision),
            },
            **special_ids(token),
        )

    def prompt(self, tokenizer: Tokenizer) -> Prompt:
        from reelnest.backbones.prompt import TimedPrompt

        return TimedPrompt(tokenizer, self.vision, start=VIDEO_START, placeholder=VIDEO, stop=VIDEO_END, end=END)

    def pixel_bounds(self, sampling: Preprocess) -> tuple[int, int]:
        """Returns those of all frames together. Frames as reelnest samples them are inside, so they are not resized again."""
        return self.vision.temporal_patch_size * sampling.min_pixels, sampling.frames * sampling.max_pixels

    def prepare(self, model: PreTrainedModel, attention: Attention) -> None:
        super().prepare(model, attention)
        language_model: Any = model.get_submodule(self.language_module)
        language_model._deepstack_process = _add_features

    def video_width(self, config: PreTrainedConfig) -> int:
        vision: Any = config.vision_config
        return super().video_width(config) * (1 + len(vision.deepstack_visual_indexes))

    def encode_video(self, tower: PreTrainedModel, pixels: Tensor, grid_thw: Tensor) -> Tensor:
        """Returns the features of the last layer and of the earlier ones side by side, so that they are cached together."""
        import torch

        from reelnest.backbones.positions import interpolated_index, tower_arguments

        vision: Any = tower
        index = interpolated_index(grid_thw, self.vision.merge_size, vision.num_grid_per_side)
        output: Any = tower(pixels, grid_thw=grid_thw, **tower_arguments(index, tower))
        return torch.cat([output.pooler_output, *output.deepstack_features], dim=1)

    def positions(self, segment: Segment, config: PreTrainedConfig) -> Tensor:  # noqa: ARG002 (steps do not depend on sizes)
        from reelnest.backbones.positions import timed_positions

        return timed_positions(segment, self.vision.merge_size)

    def encode_tokens(self, language_model: PreTrainedModel, tokens: PackedTokens) -> Tensor:
        features: dict[str, Any] = {}
        if tokens.is_video is not None and tokens.video is not None:
            tokens.video, *levels = tokens.video.split(tokens.embedded.shape[1], dim=1)
            features = {"visual_pos_masks": tokens.is_video[None], "deepstack_visual_embeds": levels}
        return self.language_states(language_model, tokens, **features)

    def mergers(self, tower: Any) -> list[nn.Module]:
        return [tower.merger, *tower.deepstack_merger_list]


def _add_features(hidden: Tensor, is_video: Tensor, features: Tensor) -> Tensor:
    """Adds features to the states of video tokens. transformers selects with a mask, which waits for the GPU and needs real tensors."""
    import torch

    return hidden + torch.zeros_like(hidden).masked_scatter(is_video[..., None], features.to(hidden.dtype))


FAMILY = FAMILIES.register("qwen3_vl")(Qwen3VL())
