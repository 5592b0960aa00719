"""The data as two tables with one row per line of its file, as input of the expectations.

A table of the lines *found* includes bad lines. A table of the lines *used* has only good ones.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reelnest.checks.near_duplicates import near_duplicates
from reelnest.checks.texts import Texts
from reelnest.records.formats import BadRecord, Pair, Side, Video, pair_kind
from reelnest.settings import Validate
from reelnest.video.inspection import Inspected

GOOD = "good"
"""Value of the column `verdict` for lines that are used."""

BLOCK_ROWS = 10_000
_Row = Mapping[str, object]

VIDEO_COLUMNS = {
    "line": "int64",
    "verdict": "str",
    "video_id": "str",
    "source": "str",
    "content": "str",
    "paired": "boolean",
    "frames": "Int64",
    "seconds": "Float64",
    "fps": "Float64",
    "width": "Int64",
    "height": "Int64",
    "megabytes": "Float64",
    "field_characters": "Int64",
    "brightness": "Float64",
    "contrast": "Float64",
    "change": "Float64",
    "look": "Int64",
    "split": "str",
    "repeated": "Int64",
    "title_script": "str",
}
PAIR_COLUMNS = {
    "line": "int64",
    "verdict": "str",
    "kind": "str",
    "query": "Int64",
    "target": "Int64",
    "pair": "Int64",
    "group": "Int64",
    "split": "str",
    "relevance": "Float64",
    "negatives": "Int64",
    "contradicted_negatives": "Int64",
    "query_characters": "Int64",
    "target_characters": "Int64",
    "repeated": "Int64",
    "query_script": "str",
    "target_script": "str",
}


@dataclass(frozen=True)
class Table:
    """A table, some of whose columns have numbers in place of texts."""

    rows: pd.DataFrame
    names: Mapping[str, Callable[[int], str]]
    """By column, what returns the text of a number."""

    def text(self, column: str, value: Any) -> str:
        """Returns a value as a reader knows it; empty if it is missing."""
        if pd.isna(value):
            return ""
        return self.names[column](int(value)) if column in self.names else str(value)


def side_name(side: Side) -> str:
    """Returns a side as one string that includes its kind."""
    return f"{side.kind}: {side.value}"


def video_table(
    videos: Sequence[Video],
    inspected: Mapping[str, Inspected],
    pairs: Sequence[Pair],
    bad: Sequence[BadRecord] = (),
    splits: Sequence[str] = (),
    looks: Mapping[str, int] | None = None,
    texts: Texts | None = None,
) -> Table:
    """A row for each video, and for each bad line that has no video, with its reason.

    `splits` are those of the pairs. `looks` are `similar_videos`, and `texts` are `texts.titles`.
    """
    rows = _video_rows(videos, inspected, video_splits(pairs, splits), looks or {}, texts, bad)

    def title(number: int) -> str:
        video = videos[number]
        return f"{video.fields['title']} (line {video.line})"

    return Table(_table(rows, VIDEO_COLUMNS), {"look": lambda number: f"looks like {videos[number].video_id}", "repeated": title})


def video_splits(pairs: Sequence[Pair], splits: Sequence[str] = ()) -> dict[str, str]:
    """Returns, by video_id, the split of the first pair with the video, or with a segment of it."""
    split_of: dict[str, str] = {}
    for pair, split in zip(pairs, splits or repeat(""), strict=False):
        for side in (pair.query, pair.target):
            if side.kind == "video":
                split_of.setdefault(side.value, split)
                split_of.setdefault(side.source, split)
    return split_of


def similar_videos(videos: Sequence[Video], inspected: Mapping[str, Inspected], settings: Validate) -> dict[str, int]:
    """Returns, by video_id, the number of the first of the `videos` that looks almost the same, without videos of one colour: all do."""
    compared = [
        (number, info.look)
        for number, video in enumerate(videos)
        if (info := inspected[video.video_id].info).look and info.contrast is not None and info.contrast >= settings.min_contrast
    ]
    first = _first_rows(near_duplicates([look for _, look in compared], settings.max_near_duplicate_bits))
    return {videos[number].video_id: compared[row][0] for (number, _), row in zip(compared, first, strict=True)}


def _video_rows(
    videos: Sequence[Video],
    inspected: Mapping[str, Inspected],
    split_of: Mapping[str, str],
    looks: Mapping[str, int],
    texts: Texts | None,
    bad: Sequence[BadRecord],
) -> Iterator[_Row]:
    verdicts = {record.line: record for record in bad}
    repeated, scripts = (None, None) if texts is None else (texts.repeated(len(videos)), texts.scripts_by_place(len(videos)))
    for number, video in enumerate(videos):
        row: dict[str, object] = {
            "line": video.line,
            "verdict": _reason(verdicts.pop(video.line, None)),
            "video_id": video.video_id,
            "source": _source(video),
            "paired": video.video_id in split_of,
            "split": split_of.get(video.video_id) or None,
            "look": looks.get(video.video_id),
            "field_characters": max(map(len, video.fields.values()), default=None),
        }
        if repeated is not None and scripts is not None:
            row |= {"repeated": repeated[number] if repeated[number] >= 0 else None, "title_script": scripts[number]}
        if facts := inspected.get(video.video_id):
            info = facts.info
            row |= {"frames": info.frames, "seconds": round(info.seconds, 3), "fps": round(info.fps, 3)}
            row |= {"width": info.width, "height": info.height, "megabytes": round(facts.content.bytes / 2**20, 3)}
            row |= {"brightness": info.brightness, "contrast": info.contrast, "change": info.change, "content": facts.content.digest}
        yield row
    yield from ({"line": line, "verdict": record.reason, "video_id": record.video_id} for line, record in verdicts.items())


def pair_table(
    pairs: Sequence[Pair], splits: Sequence[str], components: Sequence[int], bad: Sequence[BadRecord] = (), texts: Texts | None = None
) -> Table:
    """A row for each pair, with its split, and for each bad line that has no pair, with its reason.

    `components` are `splits.connected_components`, and `texts` are `texts.pair_texts`.

    Texts are numbers, because millions of them would take gigabytes: a side has the number of the first row with it, times two, plus one if
    it is the target there. Pairs and groups have the number of their first row.
    """
    numbers: dict[Side, int] = {}
    queries = np.fromiter((numbers.setdefault(pair.query, 2 * row) for row, pair in enumerate(pairs)), np.int64, len(pairs))
    targets = np.fromiter((numbers.setdefault(pair.target, 2 * row + 1) for row, pair in enumerate(pairs)), np.int64, len(pairs))
    verdicts = {record.line: record.reason for record in bad}
    rows = pd.DataFrame(
        {
            "line": np.fromiter((pair.line for pair in pairs), np.int64, len(pairs)),
            "verdict": [verdicts.pop(pair.line, GOOD) for pair in pairs],
            "kind": [pair_kind(pair.query.kind, pair.target.kind) for pair in pairs],
            "query": queries,
            "target": targets,
            "pair": _first_rows(queries * (2 * len(pairs)) + targets),
            "group": _first_rows(np.fromiter(components, np.int64, len(pairs))),
            "split": splits,
            "relevance": np.fromiter((pair.relevance for pair in pairs), np.float64, len(pairs)),
            "negatives": np.fromiter((len(pair.negatives) for pair in pairs), np.int64, len(pairs)),
            "contradicted_negatives": _contradicted(pairs),
            "query_characters": _characters(pair.query for pair in pairs),
            "target_characters": _characters(pair.target for pair in pairs),
            **_text_columns(texts, len(pairs)),
        },
    ).astype(PAIR_COLUMNS)
    if verdicts:
        without_pair = pd.DataFrame([{"line": line, "verdict": reason} for line, reason in verdicts.items()], columns=list(PAIR_COLUMNS))
        rows = _in_order(pd.concat([rows, without_pair.astype(PAIR_COLUMNS)], ignore_index=True))

    def side(number: int) -> str:
        pair = pairs[number // 2]
        return side_name(pair.target if number % 2 else pair.query)

    def pair(row: int) -> str:
        return f"{side_name(pairs[row].query)} → {side_name(pairs[row].target)}"

    def repeated(number: int) -> str:
        return f"{side(number)} (line {pairs[number // 2].line})"

    # A group is named by its first query.
    names = {"query": side, "target": side, "pair": pair, "group": lambda row: side_name(pairs[row].query), "repeated": repeated}
    return Table(rows, names)


def _text_columns(texts: Texts | None, pairs: int) -> dict[str, pd.Series]:
    """Returns what is known of the texts of each pair."""
    if texts is None:
        return {name: pd.Series([None] * pairs, dtype=PAIR_COLUMNS[name]) for name in ("repeated", "query_script", "target_script")}
    scripts = texts.scripts_by_place(2 * pairs)
    queries, targets = texts.repeated(2 * pairs).reshape(pairs, 2).T
    repeated = np.where(queries >= 0, queries, targets)
    return {
        "repeated": pd.Series(repeated, dtype="Int64").mask(repeated < 0),
        "query_script": pd.Series(scripts[0::2], dtype="str"),
        "target_script": pd.Series(scripts[1::2], dtype="str"),
    }


def _first_rows(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns, for each row, the number of the first row with the same value."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def _characters(sides: Iterable[Side]) -> pd.Series:
    """Returns the lengths of texts, missing for videos."""
    lengths = np.fromiter((len(side.value) if side.kind == "text" else -1 for side in sides), np.int64)
    return pd.Series(lengths, dtype="Int64").mask(lengths < 0)


def _contradicted(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Returns, for each pair, how many of its negatives are targets of its query in other pairs."""
    if not any(pair.negatives for pair in pairs):
        return np.zeros(len(pairs), np.int64)
    relevant = {(pair.query, pair.target) for pair in pairs}
    return np.array([sum((pair.query, negative) in relevant for negative in pair.negatives) for pair in pairs], np.int64)


def _reason(bad: BadRecord | None) -> str:
    return GOOD if bad is None else bad.reason


def _source(video: Video) -> str:
    if video.path is None:
        return ", ".join(video.images)
    return video.path if video.segment is None else f"{video.path}{video.segment.fragment}"


def _table(rows: Iterable[_Row], columns: Mapping[str, str]) -> pd.DataFrame:
    # In blocks: a row takes a kilobyte in Python objects, and a tenth of it in a table.
    rows, blocks = iter(rows), []
    while block := list(islice(rows, BLOCK_ROWS)):
        blocks.append(pd.DataFrame({name: pd.Series([row.get(name) for row in block], dtype=dtype) for name, dtype in columns.items()}))
    return _in_order(pd.concat(blocks, ignore_index=True) if blocks else pd.DataFrame(columns=list(columns)).astype(dict(columns)))


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    return table if table["line"].is_monotonic_increasing else table.sort_values("line", kind="stable", ignore_index=True)
