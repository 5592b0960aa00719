"""The token layout of an entry."""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Protocol

from reelnest.errors import ModelError
from reelnest.video.vision_spec import Grid, VisionSpec

_TOKENIZING = Lock()
"""A fast tokenizer stores its truncation setting, so that two threads cannot use it at once."""


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
    empty: list[int]
    """The tokens of an entry without video and text."""

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
        self.empty: list[int] = []

    def instruction(self, text: str) -> list[int]:
        """Returns no tokens for an empty instruction."""
        return tokenize(self._tokenizer, [text + "\n"], None)[0] if text else []

    def video(self, grid: Grid, seconds_per_grid: float) -> list[int]:  # noqa: ARG002 (part of the protocol: other layouts write times)
        """Returns start marker, placeholders, stop marker."""
        return [self._start, *[self.video_token] * self._vision.tokens(grid), self._stop]


class TimedPrompt(BlockPrompt):
    """The placeholders of each temporal step between two marker tokens, after the step's time as text."""

    def __init__(self, tokenizer: Tokenizer, vision: VisionSpec, *, start: str, placeholder: str, stop: str, end: str) -> None:
        super().__init__(tokenizer, vision, start=start, placeholder=placeholder, stop=stop, end=end)
        self._times: dict[str, list[int]] = {}

    def video(self, grid: Grid, seconds_per_grid: float) -> list[int]:
        """Returns time, start marker, placeholders and stop marker of each step."""
        step = [self._start, *[self.video_token] * self._vision.tokens((1, *grid[1:])), self._stop]
        return [token for number in range(grid[0]) for token in (*self._time(number, seconds_per_grid), *step)]

    def _time(self, step: int, seconds_per_grid: float) -> list[int]:
        # As transformers' processor computes it: the mean of the times of the step's first and last frame.
        span = self._vision.temporal_patch_size
        rate = span / seconds_per_grid
        text = f"<{(step * span / rate + (step * span + span - 1) / rate) / 2:.1f} seconds>"
        if text not in self._times:
            self._times[text] = tokenize(self._tokenizer, [text], None)[0]
        return self._times[text]


def check_tokens(tokenizer: Tokenizer, needed: Sequence[str], title: str) -> None:
    """Raises ModelError if the tokenizer lacks a token that the family `title` needs."""
    known = tokenizer.get_vocab()
    missing = [token for token in needed if token not in known]
    if missing:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} lacks {', '.join(missing)}, which {title} needs. "
            f"Copy the tokenizer files of a {title} checkpoint into the folder of the weights."
        )


TEXT_MACRO = (
    "{%- macro text(value) -%}"
    "{%- set rest = value.lstrip() -%}{%- set blank = value[:value|length - rest|length] -%}"
    "{{- rest if '\\n' in blank or '\\r' in blank else value -}}"
    "{%- endmacro -%}"
)
"""`without_blank_lines` in a chat template."""


def without_blank_lines(text: str) -> str:
    """Returns a text without the blank lines at its start.

    A tokenizer may join them with the end of the instruction. Then the row has other tokens where instruction and text are one string.
    """
    rest = text.lstrip()
    blank = text[: len(text) - len(rest)]
    return rest if "\n" in blank or "\r" in blank else text


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], longest: int | None) -> list[list[int]]:
    """Returns the token ids of `texts`, at most `longest` each."""
    if not any(texts):
        return [[] for _ in texts]
    # A text may contain a placeholder. split_special_tokens encodes it as plain text; as a placeholder it would need frames.
    with _TOKENIZING:
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
