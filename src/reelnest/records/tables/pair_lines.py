"""Writes many pairs of a search text and a video at once, as the lines that `json.dumps` would write one by one.

Arrow does what needs no decision. Rows that do need one have no line here: texts with characters that JSON escapes, or without a letter or
digit, and videos, grades and splits that are not usable. The caller checks these one by one.
"""

import json
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

import numpy as np

from reelnest.records.formats import LARGEST_RELEVANCE, SPLITS
from reelnest.records.importers.importer import PairColumns

if TYPE_CHECKING:
    import pyarrow as pa

PLAIN_TEXT = r"[\pL\pN]"
ESCAPED = r'["\\\x00-\x1f]'


def plain_lines(pairs: PairColumns, video_ids: Container[str]) -> "pa.Array":
    """The line of each pair, with its line end; null for rows to check one by one."""
    import pyarrow as pa
    from pyarrow import compute

    texts = pairs.queries
    is_plain = compute.and_(compute.match_substring_regex(texts, PLAIN_TEXT), compute.invert(compute.match_substring_regex(texts, ESCAPED)))
    parts = [
        '{"query": {"text": "',
        compute.if_else(is_plain, texts, pa.scalar(None, pa.string())),
        '"}, "target": {"video": ',
        by_value(pairs.video_ids, lambda value: json.dumps(value, ensure_ascii=False) if value in video_ids else None),
        "}",
    ]
    if pairs.splits is not None:
        parts.append(by_value(pairs.splits, lambda value: f', "split": "{value}"' if value in SPLITS else None, absent=""))
    if pairs.relevance is not None:
        parts.append(by_value(pairs.relevance, _grade, absent=""))
    return compute.binary_join_element_wise(*parts, "}\n", "")


def _grade(value: float) -> str | None:
    return f', "relevance": {json.dumps(value)}' if 0 < value <= LARGEST_RELEVANCE else None


def by_value(column: "pa.Array", convert: Callable[[Any], str | None], absent: str | None = None) -> "pa.Array":
    """Strings for the values of a column. `convert` is called once for each distinct value; null becomes `absent`."""
    import pyarrow as pa

    encoded = column.dictionary_encode()
    texts = pa.array([*map(convert, encoded.dictionary.to_pylist()), absent], pa.string())
    return texts.take(encoded.indices.fill_null(len(texts) - 1))


def joined_bytes(lines: "pa.Array") -> memoryview:
    """The bytes of all strings of a column, one after the other, without a copy."""
    _, offsets, data = lines.buffers()
    ends = np.frombuffer(offsets, np.int32)[lines.offset : lines.offset + len(lines) + 1]
    return memoryview(data)[ends[0] : ends[-1]] if data is not None else memoryview(b"")
