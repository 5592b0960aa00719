"""What the Qwen-VL families have in common: tokens, layers, and the protocol's members that do not differ between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from reelnest.backbones.family import License, ModelFlops, PackedTokens
from reelnest.backbones.prompt import TEXT_MACRO, BlockPrompt, Prompt, Tokenizer
from reelnest.settings import Preprocess, Tiny
from reelnest.video.sampling import FRAME_SAMPLERS
from reelnest.video.vision_spec import Grid, VisionSpec

if TYPE_CHECKING:  # these take seconds to import
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from reelnest.backbones.attention import Attention

END, VIDEO_START, VIDEO_END, VIDEO = "<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
TURN_START, TURN_END, IMAGE = "<|im_start|>", "<|im_end|>", "<|image_pad|>"
TEXT_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
"""The order of the numbers in the families' tables of sizes."""


class QwenVL:
    """The members of `Family` that the families share. A family of Qwen2-VL's generations has patches of 14 pixels and CLIP's colours."""

    vision = VisionSpec(
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
        # CLIP's.
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )
    vision_module = "visual"
    language_module = "language_model"
    video_token = VIDEO
    special_tokens: tuple[str, ...] = (END, VIDEO_START, VIDEO_END, VIDEO)
    tiny_tokens: tuple[str, ...] = (END, TURN_START, TURN_END, VIDEO_START, VIDEO_END, IMAGE, VIDEO)
    placeholder = f"{VIDEO_START}{VIDEO}{VIDEO_END}"
    """A video in a chat template, before the processor writes its tokens."""
    language_targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    pooling: Literal["last", "mean"] | None = None
    # Some trainers save these names, which transformers maps only for the model with a language head.
    renamed_weights: Mapping[str, str] = {r"^model\.visual\.": "visual.", r"^model\.language_model\.": "language_model."}
    saved_weights: Mapping[str, str] = {r"^language_model\.": "model."}

    title: str
    model_type: str
    processor: str
    """The class of transformers' processor."""
    video_processor = "Qwen2VLVideoProcessor"
    widths: Mapping[str, int]
    """The hidden size of each published size."""
    licenses: Mapping[str, License]

    @property
    def published_names(self) -> tuple[str, ...]:
        return tuple(f"{self.title}-{size}" for size in self.widths)

    @property
    def chat_template(self) -> str:
        return (
            f"{TEXT_MACRO}{{%- for message in messages -%}}"
            "{%- if message.content is string -%}{{- text(message.content) -}}{%- else -%}"
            f"{{%- for part in message.content if part.type == 'video' -%}}{{{{- '{self.placeholder}' -}}}}{{%- endfor -%}}"
            "{%- for part in message.content if part.type == 'text' -%}{{- text(part.text) -}}{%- endfor -%}"
            "{%- endif -%}{%- endfor -%}"
            f"{{{{- '{END}' -}}}}"
        )

    def claims(self, config: Mapping[str, object]) -> bool:
        return config.get("model_type") == self.model_type

    def size_of(self, name: str) -> str | None:
        """Returns the size in a published name or a derived one; None for another family's."""
        match = re.search(rf"{re.escape(self.title)}-(\d+B)", name)
        return match[1] if match and match[1] in self.widths else None

    def hidden_size_of(self, name: str) -> int | None:
        size = self.size_of(name)
        return self.widths[size] if size else None

    def license_of(self, name: str) -> License | None:
        # Only the publisher's own: the name of a derived checkpoint does not give its licence.
        match = re.fullmatch(rf"Qwen/{re.escape(self.title)}-(\d+B)(-Instruct)?", name)
        return self.licenses.get(match[1]) if match else None

    def tiny_tokenizer(self, texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
        from reelnest.backbones.tiny import train_tokenizer

        return train_tokenizer(texts, vocabulary, self.tiny_tokens, end_of_text=TURN_END, padding=END)

    def prompt(self, tokenizer: Tokenizer) -> Prompt:
        return BlockPrompt(tokenizer, self.vision, start=VIDEO_START, placeholder=VIDEO, stop=VIDEO_END, end=END)

    def system_message(self, instruction: str) -> str:
        return f"{instruction}\n" if instruction else ""

    def pixel_bounds(self, sampling: Preprocess) -> tuple[int, int]:
        """Returns the fewest and the most pixels in the sense of the processor's `size`."""
        return sampling.min_pixels, sampling.max_pixels

    def processor_config(self, sampling: Preprocess) -> dict[str, object]:
        least, most = self.pixel_bounds(sampling)
        pixels: dict[str, object] = {
            "size": {"shortest_edge": least, "longest_edge": most},
            "image_mean": list(self.vision.mean),
            "image_std": list(self.vision.std),
            "patch_size": self.vision.patch_size,
            "merge_size": self.vision.merge_size,
            "temporal_patch_size": self.vision.temporal_patch_size,
        }
        # Frames come as reelnest samples and resizes them. A program that samples itself reads how many; the bounds fix their number if it
        # does not depend on the rate.
        fewest = self.vision.temporal_patch_size if FRAME_SAMPLERS[sampling.sampling].reads_fps else sampling.frames
        frames = {"fps": sampling.fps, "min_frames": fewest, "max_frames": sampling.frames}
        as_they_are = {"do_sample_frames": False, "cap_pixels_per_frame": False}
        return {
            "processor_class": self.processor,
            "image_processor": {"image_processor_type": "Qwen2VLImageProcessor", **pixels},
            "video_processor": {"video_processor_type": self.video_processor, **as_they_are, **frames, **pixels},
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
        from reelnest.backbones.positions import frame_index, tower_arguments

        index = frame_index(grid_thw, self.vision.merge_size)
        tokens: Tensor = tower(pixels, grid_thw=grid_thw, **tower_arguments(index, tower)).pooler_output
        return tokens

    def encode_tokens(self, language_model: PreTrainedModel, tokens: PackedTokens) -> Tensor:
        return self.language_states(language_model, tokens)

    def language_states(self, language_model: PreTrainedModel, tokens: PackedTokens, **more: Any) -> Tensor:
        """Returns the last hidden states of all tokens. `more` are further arguments of the language model."""
        from reelnest.backbones.attention import packed_arguments

        if tokens.is_video is not None and tokens.video is not None:
            tokens.embedded = tokens.embedded.masked_scatter(tokens.is_video[:, None], tokens.video.to(tokens.embedded.dtype))
            tokens.video = None  # frees its memory while the layers run
        hidden: Tensor = language_model(
            inputs_embeds=tokens.embedded[None],
            position_ids=tokens.positions[:, None],
            use_cache=False,
            **more,
            **packed_arguments(language_model, tokens.packing),
        ).last_hidden_state[0]
        return hidden

    def compiled_modules(self, language_model: PreTrainedModel) -> Iterator[nn.Module]:
        layers: Any = language_model.layers
        for layer in layers:
            yield from (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm)

    def flops(self, model: PreTrainedModel) -> ModelFlops:
        """Returns 4 times the width, the forward cost for each pair of tokens, counting all pairs of a sequence."""
        from reelnest.backbones.flops import matrix_flops, trains

        tower: Any = model.get_submodule(self.vision_module)
        language_model: Any = model.get_submodule(self.language_module)
        text = language_model.config
        # A frozen tower has no backward pass. If any weight of the language model trains, its backward pass reaches the first layer.
        # Pixels need no gradient.
        passes = 3 if trains(tower) else 1
        patch = matrix_flops([tower.patch_embed], backward=False) + matrix_flops(tower.blocks, backward=trains(tower))
        token = matrix_flops(self.mergers(tower), backward=trains(tower))
        width = tower.patch_embed.embed_dim

        def of_video(grid: Grid) -> float:
            return patch * prod(grid) + token * self.vision.tokens(grid) + passes * 4 * width * self.attended_pairs(tower, grid)

        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return ModelFlops(
            token=matrix_flops(language_model.layers, backward=trains(model)),
            pair=4 * text.num_attention_heads * head * text.num_hidden_layers * (3 if trains(model) else 1),
            video=of_video,
        )

    def mergers(self, tower: Any) -> list[nn.Module]:
        """Returns the modules of the tower that make tokens of patches."""
        return [tower.merger]

    def attended_pairs(self, tower: Any, grid: Grid) -> int:
        """Returns the pairs of patches that attend to each other, over all layers of the tower: those of the same frame."""
        return int(len(tower.blocks) * grid[0] * (grid[1] * grid[2]) ** 2)


def tiny_text(settings: Tiny, vocabulary: int, token: Callable[[str], int]) -> dict[str, Any]:
    """Returns the text config of a small model. `token` maps a special token to its id."""
    half_head = settings.hidden_size // settings.heads // 2
    return {
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
    }


def vision_sizes(vision: VisionSpec) -> dict[str, int]:
    """Returns the spec in the words of a vision config."""
    return {
        "patch_size": vision.patch_size,
        "spatial_merge_size": vision.merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }


def published_text(sizes: Sequence[int], max_positions: int) -> dict[str, Any]:
    """Returns the text config of a published Qwen2-VL or Qwen2.5-VL. `sizes` are in the order of TEXT_SIZES."""
    return {
        **dict(zip(TEXT_SIZES, sizes, strict=True)),
        "max_position_embeddings": max_positions,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]},
    }


def special_ids(token: Callable[[str], int]) -> dict[str, Any]:
    """Returns the ids of a config's special tokens. `token` maps a special token to its id."""
    return {
        "image_token_id": token(IMAGE),
        "video_token_id": token(VIDEO),
        "vision_start_token_id": token(VIDEO_START),
        "vision_end_token_id": token(VIDEO_END),
    }
