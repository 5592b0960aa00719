"""A model family from outside the package.

It differs from Qwen2.5-VL wherever a family may: patches, frames in a step, tokens, their layout with times between the steps, positions,
and video features that are wider than the language model and go in at two places.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLModel,
)

from reelnest.backbones.attention import Attention, pack_text_attention, packed_arguments
from reelnest.backbones.families.qwen2_5_vl import Qwen25VL
from reelnest.backbones.family import FAMILIES, License, ModelFlops, PackedTokens
from reelnest.backbones.flops import matrix_flops, trains
from reelnest.backbones.prompt import Prompt, Tokenizer, tokenize
from reelnest.backbones.segments import Segment
from reelnest.backbones.tiny import train_tokenizer
from reelnest.settings import Preprocess, Tiny
from reelnest.video.vision_spec import Grid, VisionSpec

VISION = VisionSpec(patch_size=8, merge_size=2, temporal_patch_size=1, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
START, FRAME, STOP, END = "<clip>", "<frame>", "</clip>", "<end>"


class ToyConfig(Qwen2_5_VLConfig):
    model_type = "toy_vl"


class ToyModel(Qwen2_5_VLModel):
    config_class = ToyConfig


class TimedPrompt:
    """Each step of a video between marks of its own, after its time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start, self.video_token, self._stop = (tokenizer.convert_tokens_to_ids(token) for token in (START, FRAME, STOP))
        self.end = [tokenizer.convert_tokens_to_ids(END)]
        self.empty: list[int] = []

    def instruction(self, text: str) -> list[int]:
        return tokenize(self._tokenizer, [f"{text}: "], None)[0]

    def video(self, grid: Grid, seconds_per_grid: float) -> list[int]:
        steps = range(grid[0])
        times = tokenize(self._tokenizer, [f"{step * seconds_per_grid:.1f} s" for step in steps], None)
        frame = [self.video_token] * VISION.tokens((1, *grid[1:]))
        return [token for step in steps for token in (*times[step], self._start, *frame, self._stop)]


class Toy:
    title = "Toy-VL"
    model_type = "toy_vl"
    vision = VISION
    vision_module = "visual"
    language_module = "language_model"
    video_token = FRAME
    special_tokens: tuple[str, ...] = (START, FRAME, STOP, END)
    tiny_tokens: tuple[str, ...] = (END, START, FRAME, STOP)
    chat_template = "{{- messages -}}"
    language_targets = Qwen25VL.language_targets
    vision_targets = Qwen25VL.vision_targets
    wrap_classes: tuple[str, ...] = Qwen25VL.wrap_classes
    pooling: Literal["last", "mean"] | None = None
    renamed_weights: Mapping[str, str] = {}
    saved_weights: Mapping[str, str] = {}
    published_names: tuple[str, ...] = ("Toy-VL-1M",)

    def claims(self, config: Mapping[str, object]) -> bool:
        return config.get("model_type") == self.model_type

    def hidden_size_of(self, name: str) -> int | None:
        return 32 if name == "toys/Toy-VL-1M" else None

    def license_of(self, name: str) -> License | None:
        return License("cc0-1.0") if name == "toys/Toy-VL-1M" else None

    def config_of(self, name: str) -> PreTrainedConfig:  # noqa: ARG002 (there is one)
        return self.tiny_config(Tiny(hidden_size=32, heads=2), 300, self.tiny_tokens.index)

    def tiny_config(self, settings: Tiny, vocabulary: int, token: Any) -> PreTrainedConfig:
        half_head = settings.hidden_size // settings.heads // 2
        sections = [half_head // 4, half_head * 3 // 8, half_head * 3 // 8]
        return ToyConfig(
            text_config={
                "vocab_size": vocabulary,
                "hidden_size": settings.hidden_size,
                "intermediate_size": 2 * settings.hidden_size,
                "num_hidden_layers": settings.layers,
                "num_attention_heads": settings.heads,
                "num_key_value_heads": settings.heads,
                "initializer_range": settings.initializer_range,
                "bos_token_id": None,
                "eos_token_id": token(END),
                "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections},
            },
            vision_config={
                "depth": settings.vision_layers,
                "hidden_size": settings.vision_hidden_size,
                "intermediate_size": 2 * settings.vision_hidden_size,
                "num_heads": settings.vision_heads,
                "out_hidden_size": settings.hidden_size,
                "patch_size": VISION.patch_size,
                "spatial_merge_size": VISION.merge_size,
                "temporal_patch_size": VISION.temporal_patch_size,
                "fullatt_block_indexes": list(range(settings.vision_layers)),
                "initializer_range": settings.initializer_range,
            },
            video_token_id=token(FRAME),
        )

    def tiny_tokenizer(self, texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
        return train_tokenizer(texts, vocabulary, self.tiny_tokens, end_of_text=END, padding=END)

    def prompt(self, tokenizer: Tokenizer) -> Prompt:
        return TimedPrompt(tokenizer)

    def system_message(self, instruction: str) -> str:
        return f"{instruction}: "

    def processor_config(self, sampling: Preprocess) -> dict[str, object]:
        return {"image_processor": {"patch_size": VISION.patch_size, "size": sampling.max_pixels}}

    def prepare(self, model: PreTrainedModel, attention: Attention) -> None:
        if attention == "sdpa":
            pack_text_attention(model.get_submodule(self.language_module))  # type: ignore[arg-type]  # a module of the toy model

    def video_width(self, config: PreTrainedConfig) -> int:
        return 2 * int(config.get_text_config().hidden_size)

    def encode_video(self, tower: PreTrainedModel, pixels: Tensor, grid_thw: Tensor) -> Tensor:
        tokens: Tensor = tower(pixels, grid_thw=grid_thw).pooler_output
        return torch.cat([tokens, tokens.tanh()], dim=1)

    def positions(self, segment: Segment, config: PreTrainedConfig) -> Tensor:  # noqa: ARG002 (they do not depend on sizes)
        """The place in the row, whatever it is."""
        return (segment.attention_mask.cumsum(1) - 1).clamp_min(0).expand(3, -1, -1)

    def encode_tokens(self, language_model: PreTrainedModel, tokens: PackedTokens) -> Tensor:
        embedded = tokens.embedded
        if tokens.is_video is not None and tokens.video is not None:
            first, second = tokens.video.to(embedded.dtype).chunk(2, dim=1)
            places = tokens.is_video[:, None]
            embedded = embedded.masked_scatter(places, first)
            embedded = embedded + torch.zeros_like(embedded).masked_scatter(places, second)
        positions, more = tokens.positions[:, None], packed_arguments(language_model, tokens.packing)
        hidden: Tensor = language_model(inputs_embeds=embedded[None], position_ids=positions, use_cache=False, **more).last_hidden_state[0]
        return hidden

    def compiled_modules(self, language_model: PreTrainedModel) -> Iterator[torch.nn.Module]:  # noqa: ARG002 (none)
        return iter(())

    def flops(self, model: PreTrainedModel) -> ModelFlops:
        tower: Any = model.get_submodule(self.vision_module)
        language_model: Any = model.get_submodule(self.language_module)
        patch = matrix_flops(tower.blocks, backward=trains(tower))
        return ModelFlops(matrix_flops(language_model.layers, backward=trains(model)), 0.0, lambda grid: patch * prod(grid))


TOY = Toy()


@contextmanager
def toy_family() -> Iterator[None]:
    """Known to reelnest as long as the block lasts; transformers forgets no class."""
    AutoConfig.register("toy_vl", ToyConfig, exist_ok=True)
    AutoModel.register(ToyConfig, ToyModel, exist_ok=True)
    FAMILIES.register("toy_vl")(TOY)
    try:
        yield
    finally:
        del FAMILIES._by_name["toy_vl"]
