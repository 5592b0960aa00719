"""Tables read in batches: the same lines as row by row, whatever the rows hold, and rows that Arrow does not read."""

import csv
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reelnest.errors import DataError
from reelnest.records import importing
from reelnest.records.importers.importer import IMPORTERS, Origin, PairColumns, PairRow, Row, VideoRow
from reelnest.records.importing import import_data
from reelnest.records.tables import batches

TEXTS = [
    "a red ring",
    'a "quoted" ring',
    "back\\slash",
    "tab\there",
    "line\nend",
    "Ünïcödé 猫 🎬",
    "…",
    "42",
    "\u2028 separator",
    "\x7f delete",
    "a,b",
    " spaces ",
]
BAD = {"": "empty_text", "\u200b": "empty_text", "nul\0here": "nul_character"}


def write(table: Path, rows: list[dict[str, Any]]) -> None:
    if table.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    elif table.suffix == ".jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def source(folder: Path, suffix: str, rows: list[dict[str, Any]], **columns: str) -> Path:
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.mp4").write_bytes(name.encode())
    write(folder / f"rows.{suffix}", rows)
    (folder / "map.json").write_text(json.dumps({"table": f"rows.{suffix}", "query": "q", "video": "file", **columns}))
    return folder / "map.json"


def lines(folder: Path) -> list[str]:
    return (folder / "pairs.jsonl").read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture(params=[None, 40], ids=["one batch", "small batches"])
def _batch_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(batches, "BLOCK_BYTES", request.param)
        monkeypatch.setattr(batches, "PARQUET_ROWS", 3)


@pytest.mark.usefixtures("_batch_size")
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_lines_are_those_of_json(tmp_path: Path, suffix: str) -> None:
    texts = [*TEXTS, *BAD]
    rows = [{"q": text, "file": "ab"[at % 2] + ".mp4", "part": ["train", "test", ""][at % 3]} for at, text in enumerate(texts)]
    result = import_data("table", source(tmp_path / "source", suffix, rows, split="part"), tmp_path / "new")
    expected: list[dict[str, Any]] = []
    for row in rows[: len(TEXTS)]:
        record = {"query": {"text": row["q"]}, "target": {"video": row["file"][0]}}
        expected.append({**record, "split": row["part"]} if row["part"] else record)
    assert lines(tmp_path / "new") == [json.dumps(record, ensure_ascii=False) for record in expected]
    first = len(TEXTS) + (2 if suffix == "csv" else 1)
    assert [(row.origin.row, row.reason) for row in result.skipped] == [(first + at, reason) for at, reason in enumerate(BAD.values())]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_grades_are_written_as_json_writes_them(tmp_path: Path, suffix: str) -> None:
    values: list[Any] = [2, 0.1, 1e-5, 1e6, None, 0, -1, 1e7]
    grades = values if suffix == "parquet" else ["" if value is None else value for value in values]
    rows = [{"q": f"text {at}", "file": "a.mp4", "grade": grade} for at, grade in enumerate(grades)]
    if suffix == "parquet":
        rows = [{**row, "grade": None if row["grade"] is None else float(row["grade"])} for row in rows]
    result = import_data("table", source(tmp_path / "source", suffix, rows, relevance="grade"), tmp_path / "new")
    assert [json.loads(line).get("relevance") for line in lines(tmp_path / "new")] == [2.0, 0.1, 1e-5, 1e6, None]
    assert '"relevance": 1e-05}' in lines(tmp_path / "new")[2]
    assert result.reasons == {"bad_relevance": 3}


def test_ragged_rows_of_a_csv_file_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "csv", [{"q": "x", "file": "a.mp4", "part": "train"}], split="part")
    text = (
        "q,file,part\nfirst,a.mp4,train\n\nshort,b.mp4\nlong,a.mp4,test,more\nonly\n"
        '"two\nlines",a.mp4,test\nlast,a.mp4,train\n"open,a.mp4\n'
    )
    (tmp_path / "source" / "rows.csv").write_text(text)
    result = import_data("table", table, tmp_path / "new")
    pairs = sorted((row["query"]["text"], row.get("split")) for row in map(json.loads, lines(tmp_path / "new")))
    assert pairs == [("first", "train"), ("last", "train"), ("long", "test"), ("short", None), ("two\nlines", "test")]
    assert [(row.origin.row, row.reason) for row in result.skipped] == [(5, "no_path"), (8, "no_path")]


def test_lines_that_arrow_does_not_read_have_an_error_each(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "jsonl", [{"q": "x", "file": "a.mp4"}])
    (tmp_path / "source" / "rows.jsonl").write_text(
        '{"q": "first", "file": "a.mp4"}\n{"q": 5, "file": "a.mp4"}\n{"q": "x", "q": "y", "file": "a.mp4"}\n'
        '\n[]\n{"q": "last", "file": "b.mp4"}'
    )
    result = import_data("table", table, tmp_path / "new")
    assert [json.loads(line)["query"]["text"] for line in lines(tmp_path / "new")] == ["first", "last"]
    assert sorted((row.origin.row, row.reason) for row in result.skipped) == [
        (2, "wrong_type"),
        (3, "duplicate_key"),
        (4, "empty_line"),
        (5, "not_an_object"),
    ]


def test_columns_of_a_parquet_file_may_have_other_types(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "parquet", [{"q": "x", "file": "a.mp4"}], relevance="grade")
    queries = pa.array(["one", "two"]).dictionary_encode()
    grades = pa.array([1, None], pa.int64())
    pq.write_table(
        pa.table({"q": queries, "file": pa.array(["a.mp4", "b.mp4"], pa.large_string()), "grade": grades}), table.parent / "rows.parquet"
    )
    import_data("table", table, tmp_path / "new")
    assert [json.loads(line) for line in lines(tmp_path / "new")] == [
        {"query": {"text": "one"}, "target": {"video": "a"}, "relevance": 1.0},
        {"query": {"text": "two"}, "target": {"video": "b"}},
    ]
    pq.write_table(pa.table({"q": [1, 2], "file": ["a.mp4", "b.mp4"], "grade": grades}), table.parent / "rows.parquet")
    result = import_data("table", table, tmp_path / "numbers")
    assert (result.pairs, result.reasons) == (0, {"wrong_type": 2})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q,file,q\na,b,c\n", "there are two columns q; rename one"),
        (b"q,file\n\xff,a.mp4\n", "row 2: the column q is not UTF-8; save the file as UTF-8"),
        (b"\xff,file\n", "header is not readable as CSV"),
        (b"", "there is no column q; its columns are none"),
    ],
)
def test_a_csv_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    table = source(tmp_path / "source", "csv", [{"q": "x", "file": "a.mp4"}])
    (tmp_path / "source" / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        import_data("table", table, tmp_path / "new")


def test_lines_that_an_open_quote_takes_are_counted(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "csv", [{"q": "x", "file": "a.mp4"}])
    (tmp_path / "source" / "rows.csv").write_text('q,file\nfirst,a.mp4\n"open,a.mp4\n' + "lost,b.mp4\n" * 9)
    result = import_data("table", table, tmp_path / "new")
    assert [(row.origin.row, row.reason) for row in result.skipped] == [(3, "bad_csv")]
    assert "a double quote is not closed, so 9 lines after it are not read" in result.skipped[0].detail
    (tmp_path / "source" / "rows.csv").write_text('q,file\nfirst,a.mp4\n"open,a.mp4\n' + "lost,b.mp4\n" * 500_000)
    with pytest.raises(DataError, match=r"rows\.csv: not readable as CSV after row 2: .* perhaps because a double quote is not closed"):
        import_data("table", table, tmp_path / "long")


def test_a_video_that_is_no_text_is_named(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "jsonl", [{"q": "x", "file": "a.mp4"}, {"q": "y", "file": 7}])
    result = import_data("table", table, tmp_path / "new")
    assert [(row.origin.row, row.detail) for row in result.skipped] == [
        (2, "the column file has a number (7); expected the name of a video file")
    ]


def test_the_suffix_of_a_table_may_have_capital_letters(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "csv", [{"q": "x", "file": "a.mp4"}])
    (tmp_path / "source" / "rows.csv").rename(tmp_path / "source" / "ROWS.CSV")
    table.write_text(table.read_text().replace("rows.csv", "ROWS.CSV"))
    assert import_data("table", table, tmp_path / "new").pairs == 1


def test_a_partitioned_parquet_table_is_read_without_what_is_not_complete(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "parquet", [{"q": "x", "file": "a.mp4"}])
    (table.parent / "rows.parquet").unlink()
    for folder, query in (("day=1", "first"), ("day=2", "second"), ("_temporary/0", "incomplete"), (".old", "hidden")):
        (table.parent / "rows.parquet" / folder).mkdir(parents=True)
        pq.write_table(pa.table({"q": [query], "file": ["a.mp4"]}), table.parent / "rows.parquet" / folder / "part-0.parquet")
    import_data("table", table, tmp_path / "new")
    assert [json.loads(line)["query"]["text"] for line in lines(tmp_path / "new")] == ["first", "second"]


def test_pairs_of_missing_and_unknown_videos_are_skipped(tmp_path: Path) -> None:
    rows = [{"q": f"text {at}", "file": name} for at, name in enumerate(["a.mp4", "lost.mp4", "../b.mp4", "a.mp4"])]
    result = import_data("table", source(tmp_path / "source", "csv", rows), tmp_path / "new")
    assert [(row.origin.row, row.reason) for row in result.skipped] == [
        (3, "missing"),
        (4, "unsafe_path"),
        (3, "bad_video"),
        (4, "bad_video"),
    ]
    assert (result.videos, result.pairs) == (1, 2)


def test_all_skipped_rows_are_counted_and_listed_and_the_first_are_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "MOST_SKIPPED_IN_MEMORY", 3)
    rows = [{"q": "" if at else "x", "file": "a.mp4"} for at in range(10)]
    result = import_data("table", source(tmp_path / "source", "csv", rows), tmp_path / "new")
    assert result.reasons == {"empty_text": 9}
    assert [row.origin.row for row in result.skipped] == [3, 4, 5]
    assert len((tmp_path / "new" / "skipped.jsonl").read_text().splitlines()) == 9


def test_an_importer_may_yield_columns_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    IMPORTERS.names()  # loads the package's importers, so that the copy includes them
    monkeypatch.setattr(IMPORTERS, "_by_name", dict(IMPORTERS._by_name))

    @IMPORTERS.register("both")
    def read_both(source: Path) -> Iterator[Row]:
        yield PairRow(Origin("rows", 1), {"query": {"text": "early"}, "target": {"video": "v"}})
        yield VideoRow(Origin("rows", 2), {"video_id": "v", "path": "a.mp4"}, {"a.mp4": source / "a.mp4"})
        yield PairColumns("rows", np.array([3, 4]), pa.array(["one", None]), pa.array(["v", "v"]))

    folder = source(tmp_path / "source", "csv", [{"q": "x", "file": "a.mp4"}]).parent
    result = import_data("both", folder, tmp_path / "new")
    assert [json.loads(line)["query"]["text"] for line in lines(tmp_path / "new")] == ["one", "early"]
    assert [(row.origin.row, row.reason) for row in result.skipped] == [(4, "wrong_type")]


def test_rows_that_are_not_utf_8_are_skipped_and_the_others_are_read(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "csv", [{"q": "x", "file": "a.mp4"}])
    (tmp_path / "source" / "rows.csv").write_bytes("q,file\none,a.mp4\ncafé,a.mp4\nthree,b.mp4\n".encode("cp1252"))
    result = import_data("table", table, tmp_path / "new")
    assert [json.loads(line)["query"]["text"] for line in lines(tmp_path / "new")] == ["one", "three"]
    assert [(row.origin.row, row.reason) for row in result.skipped] == [(3, "wrong_encoding")]


def test_bytes_in_a_parquet_file_are_read_as_utf_8(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "parquet", [{"q": "x", "file": "a.mp4"}])
    pq.write_table(pa.table({"q": [b"one", b"\xff", "zwölf".encode()], "file": ["a.mp4"] * 3}), table.parent / "rows.parquet")
    result = import_data("table", table, tmp_path / "new")
    assert [json.loads(line)["query"]["text"] for line in lines(tmp_path / "new")] == ["one", "zwölf"]
    assert [(row.origin.row, row.reason) for row in result.skipped] == [(2, "wrong_encoding")]


@pytest.mark.parametrize("column", [[datetime(2020, 1, 1, tzinfo=UTC)], [["one"]], [{"text": "one"}]])
def test_a_query_of_another_type_is_skipped(tmp_path: Path, column: list[Any]) -> None:
    table = source(tmp_path / "source", "parquet", [{"q": "x", "file": "a.mp4"}])
    pq.write_table(pa.table({"q": column, "file": ["a.mp4"]}), table.parent / "rows.parquet")
    assert import_data("table", table, tmp_path / "new").reasons == {"wrong_type": 1}


@pytest.mark.parametrize("grade", ["[1]", '{"grade": 1}', "1" + "0" * 400, "true, false"])
def test_a_grade_that_is_no_number_is_skipped_with_its_row(tmp_path: Path, grade: str) -> None:
    table = source(tmp_path / "source", "jsonl", [{"q": "x", "file": "a.mp4"}], relevance="grade")
    bad = f'{{"q": "bad", "file": "a.mp4", "grade": {grade}}}\n'
    (tmp_path / "source" / "rows.jsonl").write_text(bad + '{"q": "good", "file": "a.mp4"}\n')
    result = import_data("table", table, tmp_path / "new")
    assert [json.loads(line)["query"]["text"] for line in lines(tmp_path / "new")] == ["good"]
    assert [row.origin.row for row in result.skipped] == [1]


def test_a_damaged_parquet_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "parquet", [{"q": f"text {at}", "file": "a.mp4"} for at in range(9000)])
    file = tmp_path / "source" / "rows.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:200] + b"\xff" * 3800 + content[4000:])
    with pytest.raises(DataError, match=r"rows\.parquet: not readable as Parquet"):
        import_data("table", table, tmp_path / "new")


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    table = source(tmp_path / "source", "csv", [{"q": "x", "file": "a.mp4"}])
    (tmp_path / "source" / "rows.csv").unlink()
    os.mkfifo(tmp_path / "source" / "rows.csv")
    with pytest.raises(DataError, match="expected a file, found a pipe"):
        import_data("table", table, tmp_path / "new")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("by_id", [False, True])
def test_rows_with_another_file_of_the_same_id_are_skipped(tmp_path: Path, suffix: str, by_id: bool) -> None:
    names = ["a.mp4", "one/a.mp4", "./a.mp4", "a"]
    rows = [{"q": f"text {at}", "file": name, "key": "a"} for at, name in enumerate(names)]
    table = source(tmp_path / "source", suffix, rows, **({"video_id": "key"} if by_id else {}))
    (table.parent / "one").mkdir()
    (table.parent / "one" / "a.mp4").write_bytes(b"another")
    result = import_data("table", table, tmp_path / "new")
    assert [json.loads(line)["query"]["text"] for line in lines(tmp_path / "new")] == ["text 0", "text 2", "text 3"]
    assert [row.reason for row in result.skipped] == ["duplicate_id"]
