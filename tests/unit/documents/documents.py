"""The commands that the documents name."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^\n((?: {4}(?!not promoted|profile of).+\n)+)", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
HERE_DOCUMENT = re.compile(r"<<'(\w+)'.*?^\1$", re.MULTILINE | re.DOTALL)
SEPARATORS = {"|", "&&", ";", ">"}
PROGRAMS = ("accelerate", "curl", "docker", "docker/make-secrets", "dvc", "git", "kubectl", "make", "mlflow", "pip", "prefect", "pytest")
PROGRAMS += ("python", "reelnest")
OF_THE_SHELL = ("$EDITOR", "bash", "cd", "cp", "export", "sed", "source")


@dataclass(frozen=True)
class Command:
    """A program and its arguments, and where a document names them."""

    document: str
    words: tuple[str, ...]
    is_typed: bool
    """In a block that a reader copies, and not in a sentence, where arguments may be left out."""

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def commands() -> list[Command]:
    """Each command of each document once."""
    found = {command: None for document in DOCUMENTS for command in _commands_of(document)}
    return list(found)


def named_paths() -> list[tuple[str, str]]:
    """Documents, and the files and folders of this repository that their sentences name."""
    path = re.compile(r"(?:benchmarks|configs|docker|docs|flows|src|tasks|tests)/[\w./-]*")
    found = {}
    for document in DOCUMENTS:
        text = FENCED.sub("", document.read_text(encoding="utf-8"))
        found |= {(document.name, name): None for name in INLINE.findall(text) if path.fullmatch(name)}
    return list(found)


def _commands_of(document: Path) -> Iterator[Command]:
    text = document.read_text(encoding="utf-8")
    for block in _blocks(text):
        for line in HERE_DOCUMENT.sub("", block.replace("\\\n", "")).splitlines():
            for words in _split(line.removeprefix("$ ")):
                if _is_command(words):
                    yield Command(document.name, words, is_typed=True)
    for inline in INLINE.findall(FENCED.sub("", text)):
        for words in _split(inline):
            if len(words) > 1 and _program(words[0]) in PROGRAMS:
                yield Command(document.name, words, is_typed=False)


def _blocks(text: str) -> Iterator[str]:
    """What stands in blocks without a language: a shell's, drawings and data."""
    for language, block in FENCED.findall(text):
        if language in ("", "bash", "sh"):
            yield block
    yield from INDENTED.findall(FENCED.sub("", text))


def _is_command(words: tuple[str, ...]) -> bool:
    return _program(words[0]) in (*PROGRAMS, *OF_THE_SHELL)


def _program(word: str) -> str:
    return word.removeprefix(".venv/bin/")


def _split(line: str) -> Iterator[tuple[str, ...]]:
    """The simple commands of a line, each in words, without comments and assignments."""
    line = re.sub(r"<(\w+)>", r"\1", re.sub(r"\s#\s.*", "", line))  # a comment; a word to replace
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # a sentence's apostrophe, a drawing
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word in SEPARATORS:
            if command:
                yield (_program(command[0]), *command[1:])
            command = []
        elif command or not re.match(r"[A-Z_]+=", word):
            command.append(word)
