"""Strict reading of files with one JSON object a line.

Stricter than `json.loads` where that would let a mistake through: NaN, a key twice in one object, half of a surrogate pair.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reelnest.errors import DataError

# A line of this size is no record but a file without line ends; reading it whole could take all memory.
MAX_LINE_BYTES = 64 * 2**20


class RecordError(Exception):
    """A record that cannot be used. Caught where its line number is known; `reason` is a short stable word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line of a file with its number, from 1, without holding more than one. Raises DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            line = 0
            while raw := file.readline(MAX_LINE_BYTES):
                line += 1
                # Editors on Windows put a byte order mark before the first line.
                yield line, raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                while len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_LINE_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the file's permissions and the disk.") from error


def parse_record(raw: bytes) -> dict[str, Any]:
    """The JSON object on a line, without the keys that are null. Raises RecordError."""
    if not raw.strip():
        raise RecordError("empty_line", "the line is empty; expected a JSON object: delete the line")
    if len(raw) == MAX_LINE_BYTES:
        raise RecordError("line_too_long", f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB; expected one JSON object a line")
    try:
        text = raw.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError("wrong_encoding", f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8") from None
    try:
        record = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        detail = f"not readable as JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}; expected one JSON object a line"
        if not raw.endswith(b"\n"):
            detail += "; the file ends in the middle of this line, so it may have been cut off: write it anew"
        raise RecordError("bad_json", detail) from None
    except (ValueError, RecursionError) as error:
        # json gives up with these on a number of thousands of digits and on brackets nested thousands deep.
        raise RecordError("bad_json", f"not readable as JSON: {error}; expected one JSON object a line") from None
    if not isinstance(record, dict):
        raise RecordError("not_an_object", f"found {show_kind(record)}; expected a JSON object such as {{…}}")
    return record


def check_keys(record: dict[str, Any], known: tuple[str, ...], prefix: str = "") -> None:
    """Raises RecordError for a key that is none of `known`."""
    for key in record:
        if key not in known:
            raise RecordError("unknown_key", f"found the key {show(prefix + key)}; known here: {', '.join(known)}: rename or remove it")


def check_string(value: Any, where: str) -> str:
    """`value`, if it is a string of whole characters; else raises RecordError."""
    if not isinstance(value, str):
        raise RecordError("wrong_type", f"{where} is {show_kind(value)}; expected a string, in quotes")
    if not is_encodable(value):
        raise RecordError("wrong_encoding", f"{where} holds half of a surrogate pair (\\ud800 to \\udfff); write the text anew")
    return value


def is_encodable(text: str) -> bool:
    r"""Whether `text` can be written as UTF-8: JSON's `\ud800` gives a string that cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def show(value: Any) -> str:
    """A value as it would stand in JSON, cut to a readable length, always encodable."""
    text = json.dumps(value, ensure_ascii=not (isinstance(value, str) and is_encodable(value)))
    return text if len(text) <= 120 else text[:117] + "…" + text[-1]


def show_kind(value: Any) -> str:
    """What kind of JSON value this is, with the value where it is short."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    kinds = {str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return f"{kinds[type(value)]} ({show(value)})"


def _refuse_constant(name: str) -> None:
    raise RecordError("not_a_number", f"found {name}, which is no JSON number; write a number, or leave the key out")


def _unique_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(items)
    if len(record) != len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordError("duplicate_key", f"the key {show(twice)} stands twice in one object; keep one")
    return {name: value for name, value in record.items() if value is not None}
