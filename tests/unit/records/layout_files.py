"""Writes the files of other layouts, and imports them."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reelnest.records.importing import Imported, import_data

Pairs = list[tuple[str, str, str | None]]
SUBRIP = "1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Hello</i> there\r\n\r\n2\r\n00:00:03,000 --> 00:00:04,000\r\n{\\an8}42 times\r\n"


def clips(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))


def write_lines(file: Path, records: Iterable[Any]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_csv(file: Path, *rows: list[str]) -> None:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows(rows)


def imported(importer: str, source: Path, tmp_path: Path) -> tuple[Imported, Pairs]:
    """The counts, and (query, target, split) of each pair. A second import writes the same bytes."""
    folders = [tmp_path / "first", tmp_path / "second"]
    result, _ = (import_data(importer, source, folder) for folder in folders)
    for name in ("videos.jsonl", "pairs.jsonl"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    records = [json.loads(line) for line in (folders[0] / "pairs.jsonl").read_text().split("\n")[:-1]]
    return result, [(next(iter(row["query"].values())), next(iter(row["target"].values())), row.get("split")) for row in records]


def skipped(result: Imported) -> list[tuple[str, int, str]]:
    return [(row.origin.file, row.origin.row, row.reason) for row in result.skipped]


def targets(importer: str, source: Path, tmp_path: Path) -> tuple[Imported, list[tuple[str, dict[str, Any], str]]]:
    """The counts, and (query text, target, split) of each pair."""
    result, _ = imported(importer, source, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "first" / "pairs.jsonl").read_text().splitlines()]
    return result, [(record["query"]["text"], record["target"], record["split"]) for record in records]
