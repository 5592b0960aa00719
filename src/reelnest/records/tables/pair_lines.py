"""Writes many pairs of a search text and a video at once, as the lines that `json.dumps` would write one by one.

Arrow does what needs no decision. Rows that do need one have no line here: texts with characters that JSON escapes, or without a letter or
digit, and videos, grades and splits that are not usable. The caller checks these one by one.
"""

import json
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

import numpy as np

from reelnest.records.formats import LARGEST_RELEVANCE, SMALLEST_RELEVANCE, SPLITS
from reelnest.records.importers.importer import PairColumns

if TYPE_CHECKING:
    import pyarrow as pa

PLAIN_TEXT = r'^[^"\\\x00-\x1f\pL\pN]*[\pL\pN][^"\\\x00-\x1f]*$'
"""A text with a letter or digit, and without characters that JSON escapes."""


def plain_lines(pairs: PairColumns, video_ids: Container[str]) -> "pa.Array":
    """Returns the line of each pair, with its line end; null for rows to check one by one."""
    import pyarrow as pa
    from pyarrow import compute

    texts = pairs.queries
    is_plain = compute.match_substring_regex(texts, PLAIN_TEXT)
    if not compute.all(is_plain, skip_nulls=False).as_py():
        texts = compute.if_else(is_plain, texts, pa.scalar(None, pa.string()))
    # What follows the text has few distinct values. It is put together for each value, because each part of a join costs the same.
    ends = [
        (pairs.video_ids, lambda value: f'"}}, "target": {{"video": {_json(value)}}}' if value in video_ids else None, None),
        (pairs.splits, lambda value: f', "split": "{value}"' if value in SPLITS else None, ""),
        (pairs.relevance, lambda value: f', "relevance": {_json(value)}' if SMALLEST_RELEVANCE <= value <= LARGEST_RELEVANCE else None, ""),
    ]
    given = [end for end in ends if end[0] is not None]
    parts = [by_value(*end, after="}\n" if end is given[-1] else "") for end in given]
    return compute.binary_join_element_wise('{"query": {"text": "', texts, *parts, "")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def by_value(column: "pa.Array", convert: Callable[[Any], str | None], absent: str | None = None, after: str = "") -> "pa.Array":
    """Returns strings for the values of a column, each followed by `after`.

    `convert` is called once for each distinct value; null becomes `absent`.
    """
    import pyarrow as pa

    encoded = column.dictionary_encode()
    values = [*map(convert, encoded.dictionary.to_pylist()), absent]
    texts = pa.array([None if value is None else value + after for value in values], pa.string())
    return texts.take(encoded.indices.fill_null(len(texts) - 1))


def joined_bytes(lines: "pa.Array") -> memoryview:
    """Returns the bytes of all strings of a column, one after the other, without a copy."""
    _, offsets, data = lines.buffers()
    ends = np.frombuffer(offsets, np.int32)[lines.offset : lines.offset + len(lines) + 1]
    return memoryview(data)[ends[0] : ends[-1]] if data is not None else memoryview(b"")
