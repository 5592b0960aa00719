"""Imports the search server's click log into the data: graded pairs of the last weeks replace those of the import before.

People's taste changes, so only the files of `serve.click_log_days` count, and a pair of an earlier import that they no longer support is
removed. `data/clicks.jsonl` lists the pairs of the last import. Pairs from elsewhere stay as they are, and their queries stay in
their split.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from prefect.variables import Variable

from reelnest.atomic_files import write_lines
from reelnest.errors import DataError, RunError
from reelnest.records.content_hash import value_hash
from reelnest.records.formats import PAIRS_FILE, known_ids, read_pairs, read_videos
from reelnest.records.importers.clicks import graded_clicks
from reelnest.records.importing import import_rows
from reelnest.records.json_lines import read_lines
from reelnest.records.splits import normalised, strictest_split
from reelnest.records.tables.column_map import ColumnMap
from reelnest.serving.clicks.journals import finished_files
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace
from tasks.workspaces import data_versions

CLICKS_FILE = "clicks.jsonl"
IMPORTED = "reelnest_clicks_imported"
"""Prefect variable with the hash of the names of the files that the last import used."""
COLUMNS = {name: name for name in ("query", "item", "position", "clicked", "session", "time")}
FOLDER = Path("click-import")
"""In `work/`."""


def import_clicks(root: Path, params: Params) -> str | None:
    """Imports the click log into `data/` and commits data.dvc. Returns what was done; None if there is no new file.

    Raises RunError if there is no click log, DataError if it has too few clicks, and what `reelnest data add` raises.
    """
    if params.serve.click_log is None:
        raise RunError("serve.click_log is null, so there is no click log. Set it in params.yaml, and start the server again.")
    files = finished_files(root / params.serve.click_log, time.time() - 86400 * params.serve.click_log_days)
    used = value_hash([file.name for file in files])
    if not files or used == Variable.get(IMPORTED):
        return None
    work = Workspace(root).work / FOLDER
    shutil.rmtree(work, ignore_errors=True)
    (work / "log").mkdir(parents=True)
    for file in files:
        shutil.copy(file, work / "log")
    columns = ColumnMap(root / "params.yaml", work / "log", root / "data", COLUMNS)
    try:
        import_rows(graded_clicks(columns), columns.table, work / "pairs")
    except DataError as error:
        raise DataError(str(error).replace(str(work / "log"), params.serve.click_log)) from error
    new = work / "pairs" / PAIRS_FILE
    pairs = _fit(new, root / "data")
    text = data_versions.add(root, params, [new], replacing=True, committing=True, finish=lambda data: _replace(data, new))
    shutil.rmtree(work)
    Variable.set(IMPORTED, used, overwrite=True)
    return f"{pairs:,} pairs of {len(files):,} files. {text.partition(chr(10))[0]}"


def _fit(new: Path, data: Path) -> int:
    """Adapts imported pairs to the data's pairs from elsewhere, and returns how many are left.

    A pair that is there already is left out: what a person wrote weighs more than clicks, and must not go when the clicks do. A query of a
    split stays in it, or the model would be trained on what it is tested with.
    """
    videos, bad = read_videos(data)
    read, _ = read_pairs(data, known_ids(videos, bad))
    clicked = _keys_of_last_import(data)
    keys = (_key({"query": pair.query.record, "target": pair.target.record}) for pair in read)
    others = {key: pair for key, pair in zip(keys, read, strict=True) if key not in clicked}
    splits: dict[str, set[str]] = {}
    for pair in others.values():
        if pair.split is not None and pair.query.kind == "text":
            splits.setdefault(normalised(pair.query.value), set()).add(pair.split)
    pairs = [pair for pair in _records(new) if _key(pair) not in others]
    for pair in pairs:
        if given := splits.get(normalised(pair["query"]["text"])):
            pair["split"] = strictest_split(given)
    write_lines(new, map(_line, pairs))
    return len(pairs)


def _replace(data: Path, new: Path) -> None:
    """Removes the pairs of the last import that the new one does not have."""
    added = _records(new)
    stale = _keys_of_last_import(data) - {_key(pair) for pair in added}
    if stale:
        write_lines(data / PAIRS_FILE, map(_line, (pair for pair in _records(data / PAIRS_FILE) if _key(pair) not in stale)))
    write_lines(data / CLICKS_FILE, map(_line, added))


def _keys_of_last_import(data: Path) -> set[str]:
    file = data / CLICKS_FILE
    return {_key(pair) for pair in _records(file)} if file.is_file() else set()


def _key(pair: dict[str, Any]) -> str:
    """Returns a value that is equal for pairs with the same sides."""
    return json.dumps([pair.get("query"), pair.get("target")], sort_keys=True)


def _records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(raw) for _, raw in read_lines(file)]


def _line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False)
