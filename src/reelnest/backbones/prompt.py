"""The token layout of an entry."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from reelnest.errors import ModelError
from reelnest.video.vision_spec import Grid, VisionSpec


class Tokenizer(Protocol):
    """The tokenizer methods in use; the tokenizers of transformers have them."""

    name_or_path: str

    def convert_tokens_to_ids(self, tokens: str, /) -> Any:
        """Returns the id of a special token."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Returns the id of every token."""
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
        """Returns the token ids of the texts, under `input_ids`."""
        ...


class Prompt(Protocol):
    """The tokens around an entry's text, for one tokenizer. A row is instruction, video, text, end."""

    video_token: int
    """The placeholder of a video's tokens."""
    end: list[int]
    """The tokens at the end of every row. The last one is also the padding token."""

    def instruction(self, text: str) -> list[int]:
        """Returns the tokens of an instruction, which precede the entry. Mean pooling does not read them."""
        ...

    def video(self, grid: Grid, seconds_per_grid: float) -> list[int]:
        """Returns a video's placeholders, with the tokens around and between them."""
        ...


class BlockPrompt:
    """One block of placeholders per video between two marker tokens; the instruction is on a separate line."""

    def __init__(self, tokenizer: Tokenizer, vision: VisionSpec, *, start: str, placeholder: str, stop: str, end: str) -> None:
        self._tokenizer, self._vision = tokenizer, vision
        self._start, self.video_token, self._stop = (tokenizer.convert_tokens_to_ids(token) for token in (start, placeholder, stop))
        self.end: list[int] = [tokenizer.convert_tokens_to_ids(end)]

    def instruction(self, text: str) -> list[int]:
        """Returns no tokens for an empty instruction."""
        return tokenize(self._tokenizer, [text + "\n"], None)[0] if text else []

    def video(self, grid: Grid, seconds_per_grid: float) -> list[int]:  # noqa: ARG002 (part of the protocol: other layouts write times)
        """Returns start marker, placeholders, stop marker."""
        return [self._start, *[self.video_token] * self._vision.tokens(grid), self._stop]


def check_tokens(tokenizer: Tokenizer, needed: Sequence[str], title: str) -> None:
    """Raises ModelError if the tokenizer lacks a token that the family `title` needs."""
    known = tokenizer.get_vocab()
    missing = [token for token in needed if token not in known]
    if missing:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} lacks {', '.join(missing)}, which {title} needs. "
            f"Copy the tokenizer files of a {title} checkpoint into the folder of the weights."
        )


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], longest: int | None) -> list[list[int]]:
    """Returns the token ids of `texts`, at most `longest` each. Not thread-safe: a fast tokenizer stores its truncation setting."""
    if not any(texts):
        return [[] for _ in texts]
    # A text may contain a placeholder. split_special_tokens encodes it as plain text; as a placeholder it would need frames.
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
