"""Strict reading of files with one JSON object per line.

Stricter than `json.loads`: rejects NaN, duplicate keys in an object, and lone surrogates.
"""

import functools
import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from reelnest.errors import DataError

# A longer line is probably a file without line ends, and reading it at once could take all memory.
MAX_LINE_BYTES = 64 * 2**20
MOST_NESTED = 100
"""How deep lists and objects are nested at most. Python fails at some hundreds, sooner in a deep call than in another."""
BLANK = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and symbols without a shape, such as Hangul fillers."""


class RecordError(Exception):
    """A record that cannot be used. `reason` is a short stable word. The caller adds the line number."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields each line of a file with its number, from 1, one at a time. Raises DataError if the file cannot be read."""
    check_is_file(path)
    try:
        with path.open("rb") as file:
            line = 0
            while raw := file.readline(MAX_LINE_BYTES):
                line += 1
                # Editors on Windows write a byte order mark before the first line.
                yield line, raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                while len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_LINE_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the file's permissions and the disk.") from error


def check_is_file(path: Path) -> None:
    """Raises DataError for a folder, and for a pipe or a device, which could be read without end."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'a pipe or a device'}. Put the file there.")


def parse_record(raw: bytes) -> dict[str, Any]:
    """Parses the JSON object on a line, without keys that are null. Raises RecordError."""
    if not raw.strip():
        raise RecordError("empty_line", "the line is empty; expected a JSON object: delete the line")
    if len(raw) == MAX_LINE_BYTES:
        raise RecordError("line_too_long", f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB; expected one JSON object per line")
    try:
        text = raw.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError("wrong_encoding", f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8") from None
    try:
        record = _decoder().decode(text)
    except json.JSONDecodeError as error:
        detail = f"not readable as JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}; expected one JSON object per line"
        if not raw.endswith(b"\n"):
            detail += "; the file ends in the middle of this line, so it may be truncated: copy it again"
        raise RecordError("bad_json", detail) from None
    except (ValueError, RecursionError) as error:
        # json raises these for numbers with thousands of digits and for brackets nested thousands deep.
        raise RecordError("bad_json", f"not readable as JSON: {error}; expected one JSON object per line") from None
    if raw.count(b"[") + raw.count(b"{") > MOST_NESTED and _is_nested_deeper(record, MOST_NESTED):
        raise RecordError("bad_json", f"lists or objects are nested more than {MOST_NESTED} deep; expected one JSON object per line")
    if not isinstance(record, dict):
        raise RecordError("not_an_object", f"found {show_kind(record)}; expected a JSON object such as {{…}}")
    return record


def _is_nested_deeper(value: Any, most: int) -> bool:
    values = [value]
    for _ in range(most + 1):
        containers = [value.values() if isinstance(value, dict) else value for value in values if isinstance(value, dict | list)]
        values = [value for container in containers for value in container]
    return bool(values)


def check_keys(record: dict[str, Any], known: tuple[str, ...], prefix: str = "") -> None:
    """Raises RecordError for a key that is not in `known`."""
    for key in record:
        if key not in known:
            raise RecordError("unknown_key", f"unknown key {show(prefix + key)}; known: {', '.join(known)}: rename or remove it")


def check_string(value: Any, where: str) -> str:
    """Returns `value` if it is a string that UTF-8 can encode. Raises RecordError otherwise."""
    if not isinstance(value, str):
        raise RecordError("wrong_type", f"{where} is {show_kind(value)}; expected a string, in quotes")
    if not is_encodable(value):
        raise RecordError("wrong_encoding", f"{where} contains a lone surrogate (\\ud800 to \\udfff); rewrite the text")
    return value


def check_text(value: Any, where: str) -> str:
    """Returns `value` if `check_string` accepts it and it has no NUL character. Raises RecordError otherwise."""
    text = check_string(value, where)
    if "\0" in text:
        raise RecordError("nul_character", f"{where} contains a NUL character (\\u0000); remove it")
    return text


def is_blank(text: str) -> bool:
    """Returns whether a reader sees nothing: only white space, control characters and characters without width or shape."""
    # Most texts begin with a letter or digit, and a generator takes five times as long.
    first = text[:1]
    return (not first.isalnum() or first in BLANK) and all(map(_is_invisible, text))


def _is_invisible(character: str) -> bool:
    # A mark alone (M) changes a character that is not there.
    return unicodedata.category(character)[0] in "CZM" or character in BLANK


def is_encodable(text: str) -> bool:
    r"""Returns whether `text` can be written as UTF-8. JSON's `\ud800` gives a string that cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def advise_on_id(name: str, known: Collection[str]) -> str:
    """Returns advice on an id that is not in `known`: it names the one that differs only in case, white space or Unicode form, if any."""
    forms = [unicodedata.normalize(form, text) for text in (name, name.strip()) for form in ("NFC", "NFD")]
    similar = next((text for form in forms for text in (form, form.lower(), form.upper()) if text in known), None)
    if similar is None:
        return "add it, or correct the id"
    return f"did you mean {show(similar)}, which differs in case, white space or Unicode form?"


def show(value: Any, longest: int = 120) -> str:
    """Returns a value as JSON of at most `longest` characters, always encodable. What is left out is replaced by “…”."""
    try:
        text = json.dumps(value, ensure_ascii=not (isinstance(value, str) and is_encodable(value)), default=str)
    except RecursionError:
        return "a value that is nested very deep"
    return text if len(text) <= longest else text[: longest - 2] + "…" + text[-1]


def show_kind(value: Any) -> str:
    """Returns the type of a value, with the value for scalars. A table may have values that JSON does not, such as dates."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    kinds = {str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return f"{kinds.get(type(value), f'of type {type(value).__name__}')} ({show(value)})"


def _refuse_constant(name: str) -> None:
    raise RecordError("not_a_number", f"found {name}, which is not a JSON number; write a number, or remove the key")


@functools.cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_given_keys)


def _given_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    record = unique_keys(items)
    return {name: value for name, value in record.items() if value is not None} if None in record.values() else record


def unique_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object with these keys and values. Raises RecordError (`duplicate_key`) if a key occurs twice."""
    record = dict(items)
    if len(record) != len(items):
        twice = Counter(name for name, _ in items).most_common(1)[0][0]
        raise RecordError("duplicate_key", f"the key {show(twice)} occurs twice in one object; keep one")
    return record
