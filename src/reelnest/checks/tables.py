"""The data as two tables with one row per line of its file, as input of the expectations.

A table of the lines *found* includes bad lines. A table of the lines *used* has only good ones.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import pandas as pd

from reelnest.records.formats import BadRecord, Pair, Side, Video, pair_kind
from reelnest.records.pair_segments import NO_SEGMENTS
from reelnest.records.splits import connected_components
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
}
PAIR_COLUMNS = {
    "line": "int64",
    "verdict": "str",
    "kind": "str",
    "query": "str",
    "target": "str",
    "pair": "str",
    "group": "str",
    "split": "str",
    "relevance": "Float64",
    "negatives": "Int64",
    "contradicted_negatives": "Int64",
    "query_characters": "Int64",
    "target_characters": "Int64",
}


def side_name(side: Side) -> str:
    """A side as one string that includes its kind."""
    return f"{side.kind}: {side.value}"


def video_table(
    videos: Sequence[Video], inspected: Mapping[str, Inspected], pairs: Sequence[Pair], bad: Sequence[BadRecord] = ()
) -> pd.DataFrame:
    """A row for each video, and for each bad line that has no video, with its reason."""
    sides = (side for pair in pairs for side in (pair.query, pair.target) if side.kind == "video")
    paired = {video_id for side in sides for video_id in (side.value, side.source)}
    return _table(_video_rows(videos, inspected, paired, bad), VIDEO_COLUMNS)


def _video_rows(
    videos: Sequence[Video], inspected: Mapping[str, Inspected], paired: Collection[str], bad: Sequence[BadRecord]
) -> Iterator[_Row]:
    verdicts = {record.line: record for record in bad}
    for video in videos:
        row: dict[str, object] = {
            "line": video.line,
            "verdict": _reason(verdicts.pop(video.line, None)),
            "video_id": video.video_id,
            "source": _source(video),
            "paired": video.video_id in paired,
            "field_characters": max(map(len, video.fields.values()), default=None),
        }
        if facts := inspected.get(video.video_id):
            info = facts.info
            row |= {"frames": info.frames, "seconds": round(info.seconds, 3), "fps": round(info.fps, 3)}
            row |= {"width": info.width, "height": info.height, "megabytes": round(facts.content.bytes / 2**20, 3)}
            row["content"] = facts.content.digest
        yield row
    yield from ({"line": line, "verdict": record.reason, "video_id": record.video_id} for line, record in verdicts.items())


def pair_table(
    pairs: Sequence[Pair], splits: Sequence[str], bad: Sequence[BadRecord] = (), files: Mapping[str, str] = NO_SEGMENTS
) -> pd.DataFrame:
    """A row for each pair, with its split, and for each bad line that has no pair, with its reason.

    `files` are `pair_segments.segmented_files`.
    """
    return _table(_pair_rows(pairs, splits, connected_components(pairs, files), bad), PAIR_COLUMNS)


def _pair_rows(pairs: Sequence[Pair], splits: Sequence[str], components: Sequence[int], bad: Sequence[BadRecord]) -> Iterator[_Row]:
    verdicts = {record.line: record for record in bad}
    relevant = {(pair.query, pair.target) for pair in pairs} if any(pair.negatives for pair in pairs) else set()
    groups: dict[int, str] = {}
    for pair, split, component in zip(pairs, splits, components, strict=True):
        query, target = side_name(pair.query), side_name(pair.target)
        yield {
            "line": pair.line,
            "verdict": _reason(verdicts.pop(pair.line, None)),
            "kind": pair_kind(pair.query.kind, pair.target.kind),
            "query": query,
            "target": target,
            "pair": f"{query} → {target}",
            # A component is named by its first query.
            "group": groups.setdefault(component, query),
            "split": split,
            "relevance": pair.relevance,
            "negatives": len(pair.negatives),
            "contradicted_negatives": sum((pair.query, negative) in relevant for negative in pair.negatives),
            "query_characters": len(pair.query.value) if pair.query.kind == "text" else None,
            "target_characters": len(pair.target.value) if pair.target.kind == "text" else None,
        }
    yield from ({"line": line, "verdict": record.reason} for line, record in verdicts.items())


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
    table = pd.concat(blocks, ignore_index=True) if blocks else pd.DataFrame(columns=list(columns)).astype(dict(columns))
    return table if table["line"].is_monotonic_increasing else table.sort_values("line", kind="stable", ignore_index=True)
