"""What the library asks of a model family. One file in `families/` answers for one family, and nothing else names it.

A family is facts and functions, without weights: functions that compute get the model, or the part of it that they run. Importing a family
is cheap, since settings are checked with its facts: torch and transformers are imported inside the functions that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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
    """A licence as the Hub writes it. `name` and `link` are given where `identifier` is `other`."""

    identifier: str
    name: str | None = None
    link: str | None = None


@dataclass
class PackedTokens:
    """What the language model reads: the tokens of all rows, one row after the other, without padding."""

    embedded: Tensor  # (tokens, hidden)
    positions: Tensor  # int64 (axes, tokens)
    packing: Packing
    is_video: Tensor | None = None  # bool (tokens,); None where no row has a video
    video: Tensor | None = None  # (video tokens, video_width), as `Family.encode_video` returns it


@dataclass(frozen=True)
class ModelFlops:
    """Floating point operations of a training step, forward and backward, without padding and without what is computed twice."""

    token: float
    """Of one token in the language model, attention between tokens left out."""
    pair: float
    """Of one pair of tokens of a row in the language model's attention."""
    video: Callable[[Grid], float]
    """Of one video in the vision tower."""


class Family(Protocol):
    """A model family."""

    title: str
    """As people call it."""
    model_type: str
    """As transformers calls it in config.json."""
    vision: VisionSpec
    vision_module: str
    language_module: str
    """Names of the vision tower and of the language model in transformers' model."""
    video_token: str
    """The placeholder that the vision tower's output takes the place of."""
    special_tokens: tuple[str, ...]
    """Tokens that rows are made of. A tokenizer without them is refused."""
    tiny_tokens: tuple[str, ...]
    """The special tokens of the small model's tokenizer."""
    chat_template: str
    """A message as our rows, for sentence-transformers."""
    language_targets: str
    vision_targets: str
    """LoRA's targets: patterns over whole paths, since the two parts may have layers of the same names."""
    wrap_classes: tuple[str, ...]
    """Names of the classes of layers that FSDP shards one by one."""
    renamed_weights: Mapping[str, str]
    """Patterns of weight names that transformers does not know, and what it calls them."""
    published_names: tuple[str, ...]
    """Checkpoints whose sizes are known without the Hub."""

    def claims(self, config: Mapping[str, object]) -> bool:
        """Whether a checkpoint with this config.json is of this family, and of no other."""
        ...

    def hidden_size_of(self, name: str) -> int | None:
        """The width of a published checkpoint. None for a name that is not known here."""
        ...

    def license_of(self, name: str) -> License | None:
        """The licence of a published checkpoint's weights. None for a name that is not known here."""
        ...

    def config_of(self, name: str) -> PreTrainedConfig:
        """The architecture of a checkpoint whose `hidden_size_of` is known."""
        ...

    def tiny_config(self, settings: Tiny, vocabulary: int, token: Callable[[str], int]) -> PreTrainedConfig:
        """The architecture of a small model, for a tokenizer of `vocabulary` tokens; `token` gives the number of a special one."""
        ...

    def tiny_tokenizer(self, texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
        """A tokenizer for the small model, trained on `texts`, of at most `vocabulary` tokens."""
        ...

    def prompt(self, tokenizer: Tokenizer) -> Prompt:
        """How an entry is laid out in tokens."""
        ...

    def processor_config(self, sampling: Preprocess) -> dict[str, object]:
        """What a saved model's processor_config.json says, so that transformers' processor makes our patches."""
        ...

    def prepare(self, model: PreTrainedModel, attention: Attention) -> None:
        """Puts our layers in the place of transformers', where they are faster or need no padding."""
        ...

    def video_width(self, config: PreTrainedConfig) -> int:
        """Numbers in one video token, as `encode_video` returns it."""
        ...

    def encode_video(self, tower: PreTrainedModel, pixels: Tensor, grid_thw: Tensor) -> Tensor:
        """What the vision tower makes of videos, (video tokens, video_width).

        `pixels` are normalised patches, (patches, row width), of one video after the other, on the tower's device and of its dtype;
        `grid_thw` is on the CPU.
        """
        ...

    def positions(self, segment: Segment, config: PreTrainedConfig) -> Tensor:
        """Rotary positions of the segment's tokens, int64 (axes, rows, tokens). What padding gets is not read."""
        ...

    def encode_tokens(self, language_model: PreTrainedModel, tokens: PackedTokens) -> Tensor:
        """The last hidden states of all tokens, (tokens, hidden). May change `tokens`."""
        ...

    def compiled_modules(self, language_model: PreTrainedModel) -> Iterator[nn.Module]:
        """The modules that `train.compile` compiles, each by itself: those that look at one token at a time."""
        ...

    def flops(self, model: PreTrainedModel) -> ModelFlops:
        """What a training step computes, by what of the model trains."""
        ...


FAMILIES: Implementations[Family] = Implementations("model family", "reelnest.backbones.families")
"""By name. Register an instance with `FAMILIES.register("name")(...)`, in a file of `families/` or before a model is opened."""
