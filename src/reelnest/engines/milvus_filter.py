"""Filters as Milvus's expressions, over two JSON fields of a row.

`texts` has each field's text after a `=`, and an empty text for a field that the video lacks. `numbers` has a number for each field, below
all others if it is missing or no number. So every path exists and a comparison is true or false, also under `not`, in every version of
Milvus.
"""

from collections.abc import Collection
from typing import Any

from reelnest.engines.collections import numbers_of, texts_of
from reelnest.records.formats import TEXT_FIELDS, Video
from reelnest.search.filters import All, AnyOf, Compare, Filter, Not, OneOf

NO_NUMBER = -1e300
"""Below all numbers that are compared; see `NUMBER` in `filters.py`."""
LEAST_NUMBER = -1e299


def filtered_fields(video: Video, tags: Collection[str]) -> dict[str, dict[str, Any]]:
    """Returns the JSON fields of a video's row."""
    texts, numbers = texts_of(video), numbers_of(video)
    names = ("video_id", *TEXT_FIELDS, *tags)
    return {
        "texts": {name: f"={texts[name]}" if name in texts else "" for name in names},
        "numbers": {name: numbers.get(name, NO_NUMBER) for name in names},
    }


def expression(condition: Filter) -> str:
    """Returns a filter as an expression."""
    match condition:
        case Not(inner):
            return f"(not {expression(inner)})"
        case All(conditions):
            return f"({' and '.join(map(expression, conditions))})"
        case AnyOf(conditions):
            return f"({' or '.join(map(expression, conditions))})"
        case OneOf(field, values):
            one_of = " or ".join(_compared(field, "==", value) for value in values)
            return f"({one_of})" if isinstance(values[0], str) else _of_a_number(field, one_of)
        case Compare(field, sign, value) if isinstance(value, str):
            has_text = f" and {_compared(field, '>=', '')}" if sign.startswith("<") else ""
            return f"({_compared(field, sign, value)}{has_text})"
        case Compare(field, sign, value):
            return _of_a_number(field, _compared(field, sign, value))


def _of_a_number(field: str, comparison: str) -> str:
    """Returns a comparison that only a number satisfies: NO_NUMBER does not, whatever it is compared with."""
    return f"(({comparison}) and {_compared(field, '>=', LEAST_NUMBER)})"


def quoted(text: str) -> str:
    """Returns a text as an expression writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f'"{escaped}"'


def _compared(field: str, sign: str, value: str | float) -> str:
    if isinstance(value, str):
        return f"texts[{quoted(field)}] {sign} {quoted('=' + value)}"
    return f"numbers[{quoted(field)}] {sign} {float(value)!r}"
