"""Small-VL: Qwen2.5-VL's layers under another name, with the time of each step as text, as Qwen3-VL has it."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, Qwen2_5_VLConfig, Qwen2_5_VLModel

from reelnest.backbones.families.qwen2_5_vl import Qwen25VL
from reelnest.backbones.family import FAMILIES
from reelnest.backbones.positions import timed_positions
from reelnest.backbones.prompt import Prompt, TimedPrompt, Tokenizer
from reelnest.backbones.qwen_vl import END, VIDEO, VIDEO_END, VIDEO_START
from reelnest.backbones.segments import Segment
from reelnest.settings import Tiny


class SmallConfig(Qwen2_5_VLConfig):
    model_type = "small_vl"


class SmallModel(Qwen2_5_VLModel):
    config_class = SmallConfig


class SmallVL(Qwen25VL):
    title, model_type = "Small-VL", "small_vl"
    widths: Mapping[str, int] = {}  # none is published
    saved_weights: Mapping[str, str] = {}  # no server knows it

    def tiny_config(self, settings: Tiny, vocabulary: int, token: Callable[[str], int]) -> PreTrainedConfig:
        known: dict[str, Any] = super().tiny_config(settings, vocabulary, token).to_dict()
        return SmallConfig(**known | {"model_type": self.model_type})

    def prompt(self, tokenizer: Tokenizer) -> Prompt:
        return TimedPrompt(tokenizer, self.vision, start=VIDEO_START, placeholder=VIDEO, stop=VIDEO_END, end=END)

    def positions(self, segment: Segment, config: PreTrainedConfig) -> Tensor:  # noqa: ARG002 (steps do not depend on sizes)
        return timed_positions(segment, self.vision.merge_size)


AutoConfig.register("small_vl", SmallConfig)
AutoModel.register(SmallConfig, SmallModel)
FAMILY = FAMILIES.register("small_vl")(SmallVL())
