"""The protocol of a model family. One file in `families/` implements it for one family, and no other code names that family.

A family holds facts and functions but no weights: functions that compute get the model, or the module that they run. Importing a family
is cheap, because settings are checked against its facts: functions import torch and transformers when they need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from reelnest.implementations import Implementations
from reelnest.settings import Preprocess, Tiny
from reelnest.video.vision_spec import Grid, VisionSpec

if TYPE_CHECKING:  # these take seconds to import
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from reelnest.backbones.attention import Attention
    from reelnest.backbones.packing import Packing
    from reelnest.backbones.prompt import Prompt, Tokenizer
    from reelnest.backbones.segments import Segment


@dataclass(frozen=True)
class License:
    """A licence in the Hub's form. `name` and `link` are set if `identifier` is `other`."""

    identifier: str
    name: str | None = None
    link: str | None = None


@dataclass
class PackedTokens:
    """The input of the language model: the concatenated tokens of all rows, without padding."""

    embedded: Tensor  # (tokens, hidden)
    positions: Tensor  # int64 (axes, tokens)
    packing: Packing
    is_video: Tensor | None = None  # bool (tokens,); None if no row has a video
    video: Tensor | None = None  # (video tokens, video_width), as `Family.encode_video` returns it


@dataclass(frozen=True)
class ModelFlops:
    """Floating point operations of a training step, forward and backward, without padding and recomputation."""

    token: float
    """Of one token in the language model, without attention between tokens."""
    pair: float
    """Of one pair of tokens in the language model's attention."""
    video: Callable[[Grid], float]
    """Of one video in the vision tower."""


class Family(Protocol):
    """A model family."""

    title: str
    """The published name."""
    model_type: str
    """The `model_type` of config.json."""
    vision: VisionSpec
    vision_module: str
    language_module: str
    """Names of the vision tower and of the language model in transformers' model."""
    video_token: str
    """The placeholder that the vision tower's output replaces."""
    special_tokens: tuple[str, ...]
    """The special tokens of a row. A tokenizer without them is refused."""
    tiny_tokens: tuple[str, ...]
    """The special tokens of the small model's tokenizer."""
    language_targets: str
    vision_targets: str
    """Patterns of LoRA's target modules, over full paths: tower and language model may use the same layer names."""
    pooling: Literal["last", "mean"] | None
    """The pooling of the published vectors; None for a family that was not published for vectors."""
    wrap_classes: tuple[str, ...]
    """Names of the classes of layers that FSDP shards one by one."""
    renamed_weights: Mapping[str, str]
    """Patterns of weight names that transformers does not know, and their replacements."""
    saved_weights: Mapping[str, str]
    """Patterns of weight names, and their replacements in a saved model: the published names, which servers know."""

    @property
    def published_names(self) -> tuple[str, ...]:
        """Checkpoints with sizes that are known without the Hub."""
        ...

    @property
    def chat_template(self) -> str:
        """Formats a chat message as one of our rows, for sentence-transformers."""
        ...

    def claims(self, config: Mapping[str, object]) -> bool:
        """Returns whether a checkpoint with this config.json belongs to this family. At most one family may return True."""
        ...

    def hidden_size_of(self, name: str) -> int | None:
        """Returns the width of a published checkpoint; None for an unknown name."""
        ...

    def license_of(self, name: str) -> License | None:
        """Returns the licence of a published checkpoint's weights; None for an unknown name."""
        ...

    def config_of(self, name: str) -> PreTrainedConfig:
        """Returns the architecture of a checkpoint that `hidden_size_of` knows."""
        ...

    def tiny_config(self, settings: Tiny, vocabulary: int, token: Callable[[str], int]) -> PreTrainedConfig:
        """Returns the architecture of a small model with `vocabulary` tokens. `token` maps a special token to its id."""
        ...

    def tiny_tokenizer(self, texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
        """Returns a tokenizer for the small model, trained on `texts`, of at most `vocabulary` tokens."""
        ...

    def prompt(self, tokenizer: Tokenizer) -> Prompt:
        """Returns the token layout of an entry."""
        ...

    def system_message(self, instruction: str) -> str:
        """Returns an instruction as the system message of a chat, for sentence-transformers."""
        ...

    def processor_config(self, sampling: Preprocess) -> dict[str, object]:
        """Returns the processor_config.json of a saved model, with which transformers' processor makes the same patches."""
        ...

    def prepare(self, model: PreTrainedModel, attention: Attention) -> None:
        """Replaces transformers' layers with faster ones, and with ones that need no padding."""
        ...

    def video_width(self, config: PreTrainedConfig) -> int:
        """Returns the width of a video token of `encode_video`."""
        ...

    def encode_video(self, tower: PreTrainedModel, pixels: Tensor, grid_thw: Tensor) -> Tensor:
        """Runs the vision tower; returns (video tokens, video_width).

        `pixels` are the concatenated normalised patches of all videos, (patches, row width), on the tower's device and in its dtype.
        `grid_thw` is on the CPU.
        """
        ...

    def positions(self, segment: Segment, config: PreTrainedConfig) -> Tensor:
        """Returns the rotary positions of the segment's tokens, int64 (axes, rows, tokens). Those of padding are not read."""
        ...

    def encode_tokens(self, language_model: PreTrainedModel, tokens: PackedTokens) -> Tensor:
        """Returns the last hidden states of all tokens, (tokens, hidden). May change `tokens`."""
        ...

    def compiled_modules(self, language_model: PreTrainedModel) -> Iterator[nn.Module]:
        """Yields the modules that `train.compile` compiles separately: those that process each token independently."""
        ...

    def flops(self, model: PreTrainedModel) -> ModelFlops:
        """Returns the operations of a training step, given which weights train."""
        ...


FAMILIES: Implementations[Family] = Implementations("model family", "reelnest.backbones.families")
"""All families, by name. Register an instance with `FAMILIES.register("name")(...)` in `families/`, or before you open a model."""
