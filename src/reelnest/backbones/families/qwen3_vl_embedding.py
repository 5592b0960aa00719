"""Qwen3-VL-Embedding: https://huggingface.co/collections/Qwen/qwen3-vl-embedding. Qwen3-VL, with the layout of a chat.

The layout is that of the publisher's code (https://github.com/QwenLM/Qwen3-VL-Embedding): a system turn with the instruction, a user turn
with video and text, and the start of an assistant turn. A vector is the last token's state, so set `model.pooling` to `last`.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

from reelnest.backbones.families.qwen3_vl import LICENSES, WIDTHS, Qwen3VL
from reelnest.backbones.family import FAMILIES
from reelnest.backbones.prompt import TEXT_MACRO, Prompt, TimedPrompt, Tokenizer, tokenize
from reelnest.backbones.qwen_vl import END, TURN_END, TURN_START, VIDEO, VIDEO_END, VIDEO_START
from reelnest.video.vision_spec import VisionSpec

DEFAULT_INSTRUCTION = "Represent the user's input."
EMPTY = "NULL"
"""The text of an entry without text and video."""
EMBEDDING_WIDTHS = {size: WIDTHS[size] for size in ("2B", "8B")}
EMBEDDING_LICENSES = {size: LICENSES[size] for size in EMBEDDING_WIDTHS}
TEMPLATE = (
    f'{TEXT_MACRO}{{%- set ns = namespace(system="{DEFAULT_INSTRUCTION}", empty=true) -%}}'
    "{%- for message in messages if message.role == 'system' -%}"
    "{%- if message.content is string -%}{%- set ns.system = message.content -%}"
    "{%- else -%}{%- for part in message.content if part.type == 'text' -%}{%- set ns.system = part.text -%}{%- endfor -%}{%- endif -%}"
    "{%- endfor -%}"
    f"{{{{- '{TURN_START}system\\n' + ns.system + '{TURN_END}\\n{TURN_START}user\\n' -}}}}"
    "{%- for message in messages if message.role != 'system' -%}"
    "{%- if message.content is string -%}{%- set words = text(message.content) -%}"
    "{%- if words -%}{%- set ns.empty = false -%}{{- words -}}{%- endif -%}"
    "{%- else -%}"
    f"{{%- for part in message.content if part.type == 'video' -%}}{{%- set ns.empty = false -%}}{{{{- '{VIDEO}' -}}}}{{%- endfor -%}}"
    "{%- for part in message.content if part.type == 'text' -%}{%- set words = text(part.text) -%}"
    "{%- if words -%}{%- set ns.empty = false -%}{{- words -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}"
    f"{{%- if ns.empty -%}}{{{{- '{EMPTY}' -}}}}{{%- endif -%}}"
    f"{{{{- '{TURN_END}\\n{TURN_START}assistant\\n' -}}}}"
)


class ChatPrompt(TimedPrompt):
    """A system turn with the instruction, a user turn with the entry, and the start of an assistant turn.

    The end token follows if the tokenizer adds it: the publisher's sources disagree, and their code leaves it to the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, vision: VisionSpec) -> None:
        super().__init__(tokenizer, vision, start=VIDEO_START, placeholder=VIDEO, stop=VIDEO_END, end=END)
        start, stop = (tokenizer.convert_tokens_to_ids(token) for token in (TURN_START, TURN_END))
        line, user, assistant, self.empty = (tokenize(tokenizer, [text], None)[0] for text in ("\n", "user\n", "assistant\n", EMPTY))
        self._turn = start
        self._user = [stop, *line, start, *user]
        self.end = [stop, *line, start, *assistant, *(self.end if _adds_end(tokenizer, self.end) else [])]

    def instruction(self, text: str) -> list[int]:
        """Returns the system turn and the start of the user turn, with the publisher's instruction for an empty one."""
        return [self._turn, *tokenize(self._tokenizer, [f"system\n{system_message(text)}"], None)[0], *self._user]


class Qwen3VLEmbedding(Qwen3VL):
    """Implements the protocol `Family`, which documents each member."""

    title = "Qwen3-VL-Embedding"
    special_tokens: tuple[str, ...] = (END, TURN_START, TURN_END, VIDEO_START, VIDEO_END, VIDEO)
    pooling: Literal["last", "mean"] | None = "last"
    widths = EMBEDDING_WIDTHS
    licenses = EMBEDDING_LICENSES

    @property
    def chat_template(self) -> str:
        return TEMPLATE

    def prompt(self, tokenizer: Tokenizer) -> Prompt:
        return ChatPrompt(tokenizer, self.vision)

    def system_message(self, instruction: str) -> str:
        return system_message(instruction)


def system_message(instruction: str) -> str:
    """Returns the instruction as the publisher's code writes it: with a default, and a full stop unless it ends with punctuation."""
    text = instruction.strip() or DEFAULT_INSTRUCTION
    return text if unicodedata.category(text[-1]).startswith("P") else f"{text}."


def _adds_end(tokenizer: Tokenizer, end: list[int]) -> bool:
    ids = tokenizer(
        ["a"], add_special_tokens=True, split_special_tokens=True, return_attention_mask=False, truncation=False, max_length=None
    )["input_ids"][0]
    return bool(ids[-1:] == end)


FAMILY = FAMILIES.register("qwen3_vl_embedding")(Qwen3VLEmbedding())
