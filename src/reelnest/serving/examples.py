"""Example searches, so that the search page does not start empty. They are read from the data folder of the index."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from reelnest.records.formats import PAIRS_FILE, VIDEOS_FILE
from reelnest.records.json_lines import is_encodable

COUNT = 6
LONGEST = 70
MOST_LINES = 100_000
"""Lines that are read of each file, so that a large data folder does not delay the start of the server."""


def example_searches(data: Path) -> list[str]:
    """Returns a few searches, always the same for the same data. Empty if the folder has none.

    They are queries of the test split, or else queries of any split, or else titles of videos.
    """
    pairs = list(_records(data / PAIRS_FILE))
    of_test = [text for pair in pairs if pair.get("split") == "test" for text in _query(pair)]
    return _spread(of_test) or _spread([text for pair in pairs for text in _query(pair)]) or _spread(_titles(data / VIDEOS_FILE))


def _query(pair: dict[str, Any]) -> Iterator[str]:
    """Yields the text of a query, unless what it searches for is a text."""
    query, target = pair.get("query"), pair.get("target")
    if isinstance(query, dict) and isinstance(target, dict) and "video" in target and isinstance(query.get("text"), str):
        yield query["text"]


def _titles(file: Path) -> list[str]:
    return [record["title"] for record in _records(file) if isinstance(record.get("title"), str)]


def _spread(texts: list[str]) -> list[str]:
    """Returns COUNT different texts that fit on a button and can be sent as UTF-8, spread over the file."""
    chosen = list(dict.fromkeys(text.strip() for text in texts if 0 < len(text.strip()) <= LONGEST and is_encodable(text)))
    return [chosen[number * len(chosen) // COUNT] for number in range(COUNT)] if len(chosen) > COUNT else chosen


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a file of JSON lines, without lines that cannot be read. `reelnest validate` reports those."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in islice(lines, MOST_LINES):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record
    except OSError:
        return
