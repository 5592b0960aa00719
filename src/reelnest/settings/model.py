"""The section `model`: the encoder."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reelnest.settings.section import FamilyName, Positive, Section, Text


class Tiny(Section):
    """Sizes of the small, randomly initialised backbone of `name_or_path: tiny`."""

    hidden_size: Positive = 128
    layers: Positive = 3
    heads: Positive = 4
    vision_hidden_size: Positive = 96
    vision_layers: Positive = 3
    vision_heads: Positive = 4
    vocabulary: Annotated[int, Field(ge=300)] = 2048
    initializer_range: Annotated[float, Field(gt=0)] = 0.12
    """About 1/sqrt(width). With the usual 0.02, a model this narrow does not learn the order of frames."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads or self.vision_hidden_size % self.vision_heads:
            raise ValueError("hidden_size must be a multiple of heads, and vision_hidden_size of vision_heads")
        if (self.hidden_size // self.heads) % 16 or (self.vision_hidden_size // self.vision_heads) % 4:
            raise ValueError("a text head (hidden_size / heads) must be a multiple of 16 wide and a vision head a multiple of 4")
        return self


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685) on the language model, through peft."""

    r: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    vision: bool = False
    """Also adapt the attention and MLP layers of the vision tower."""
    merge: bool = True
    """Save merged weights, a self-contained folder. If false, save the adapter and its base model's name and revision."""


class Model(Section):
    """The encoder."""

    name_or_path: Text = "tiny"
    """A Hub name, a folder in Hugging Face format, or `tiny`."""
    revision: Text | None = None
    """Commit of the Hub repository; required for a Hub name."""
    family: FamilyName | None = None
    """The model family; null: from the name or from config.json. Needed if config.json fits two families."""
    tiny: Tiny = Tiny()
    dtype: Literal["float32", "bfloat16"] = "float32"
    load_in_4bit: bool = False
    """Quantise the frozen base weights to 4-bit NF4 (bitsandbytes; needs a GPU and LoRA)."""
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    pooling: Literal["last", "mean"] = "mean"
    """The end token's hidden state, or the mean over all tokens except the instruction's."""
    projection: Positive | None = None
    """Width of a linear projection after pooling; null for none."""
    dims: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)] = (16, 32, 64, 128)
    """The nested dims, increasing. The last one is the full width."""
    query_instruction: str = ""
    target_instruction: str = ""
    """Text in front of each query or target, for a base that follows instructions."""
    max_text_tokens: Positive = 256
    freeze: Literal["none", "vision", "backbone"] = "none"
    lora: Lora | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if any(a >= b for a, b in zip(self.dims, self.dims[1:], strict=False)):
            raise ValueError(f"dims must increase; found {list(self.dims)}")
        if self.freeze == "backbone" and self.lora is not None:
            raise ValueError(
                "freeze: backbone and lora contradict each other: set lora to null, or freeze to none or vision "
                "(the base weights under LoRA are frozen in any case)"
            )
        if self.freeze == "backbone" and self.projection is None:
            raise ValueError("freeze: backbone without a projection has no weights to train: set projection to a width")
        if self.freeze == "vision" and self.lora is not None and self.lora.vision:
            raise ValueError("freeze: vision and lora.vision: true contradict each other: change one")
        if self.load_in_4bit and (self.lora is None or self.lora.merge):
            raise ValueError("load_in_4bit needs lora with merge: false (4-bit weights can neither be trained nor merged)")
        if self.lora is not None and not self.lora.merge and self.name_or_path == "tiny":
            raise ValueError("lora.merge: false saves the base model's name, and a tiny model has none: set merge to true")
        if self.name_or_path != "tiny" and not Path(self.name_or_path).is_dir() and self.revision is None:
            raise ValueError(
                f"'{self.name_or_path}' is not a local folder, so it is read as a Hub name, which needs a revision (a commit hash) "
                "to fix the weights"
            )
        return self
