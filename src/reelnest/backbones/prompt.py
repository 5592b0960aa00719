"""How an entry is laid out in tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from reelnest.errors import ModelError
from reelnest.video.vision_spec import Grid, VisionSpec


class Tokenizer(Protocol):
    """What is asked of a tokenizer; transformers' have it."""

    name_or_path: str

    def convert_tokens_to_ids(self, tokens: str, /) -> Any:
        """The number of a special token."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Every token's number."""
        ...

    def __call__(
        self,
        text: list[str],
        /,
        *,
        add_special_tokens: bool,
        truncation: bool,
        max_length: int | None,
        return_attention_mask: bool,
        split_special_tokens: bool,
    ) -> Mapping[str, Any]:
        """The texts' tokens, under `input_ids`."""
        ...


class Prompt(Protocol):
    """The tokens around an entry's text, for one tokenizer. A row is instruction, video, text, end."""

    video_token: int
    """The placeholder of a video's tokens."""
    end: list[int]
    """What every row ends with. Rows are padded with the last of these."""

    def instruction(self, text: str) -> list[int]:
        """What precedes an entry of a role with this instruction; mean pooling does not read it."""
        ...

    def video(self, grid: Grid, seconds_per_grid: float) -> list[int]:
        """A video's placeholders, with what is around and between them."""
        ...


class BlockPrompt:
    """The whole video as one block of placeholders between two marks; an instruction on a line of its own."""

    def __init__(self, tokenizer: Tokenizer, vision: VisionSpec, *, start: str, placeholder: str, stop: str, end: str) -> None:
        self._tokenizer, self._vision = tokenizer, vision
        self._start, self.video_token, self._stop = (tokenizer.convert_tokens_to_ids(token) for token in (start, placeholder, stop))
        self.end: list[int] = [tokenizer.convert_tokens_to_ids(end)]

    def instruction(self, text: str) -> list[int]:
        """Nothing for an empty one."""
        return tokenize(self._tokenizer, [text + "\n"], None)[0] if text else []

    def video(self, grid: Grid, seconds_per_grid: float) -> list[int]:  # noqa: ARG002 (of the protocol: other layouts write times)
        """Start, placeholders, stop."""
        return [self._start, *[self.video_token] * self._vision.tokens(grid), self._stop]


def check_tokens(tokenizer: Tokenizer, needed: Sequence[str], title: str) -> None:
    """Raises ModelError where the tokenizer lacks one of the tokens that the family `title` needs."""
    known = tokenizer.get_vocab()
    missing = [token for token in needed if token not in known]
    if missing:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} lacks {', '.join(missing)}, which {title}'s has. "
            f"Put the tokenizer files of a {title} checkpoint beside the weights."
        )


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], longest: int | None) -> list[list[int]]:
    """The tokens of `texts`, at most `longest` each. Not for two threads at once: a fast tokenizer remembers its truncation."""
    if not any(texts):
        return [[] for _ in texts]
    # Someone's text may hold a placeholder: split_special_tokens keeps it words, or it would ask for frames that are not there.
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        truncation=longest is not None,
        max_length=longest,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids
