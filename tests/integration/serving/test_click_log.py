"""The click log: what servers write is what the importer reads, whatever kills them, and nothing else is stored."""

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from reelnest.errors import QueryError
from reelnest.records.clicks.click_log import read_click_log
from reelnest.records.tables.column_map import ColumnMap
from reelnest.serving.clicks import click_log as module
from reelnest.serving.clicks import journals
from reelnest.serving.clicks.click_log import MOST_LOGGED, ClickLog
from reelnest.serving.clicks.journals import finished_files
from reelnest.settings import Serve

SESSION = "0123456789abcdef"
START = 1_800_000_000.0
SETTINGS = Serve(click_log="clicks", click_log_minutes=10, click_minutes=30)
LATER = START + 41 * 60
COLUMNS = {"query": "query", "item": "item", "position": "position", "clicked": "clicked", "session": "session", "time": "time"}


class Clock:
    """A time that tests set."""

    now = START

    def __call__(self) -> float:
        return self.now


def opened(folder: Path, clock: Clock) -> ClickLog:
    return ClickLog(SETTINGS, folder, clock)


def search(log: ClickLog, query: str = "a red ring", items: tuple[str, ...] = ("a", "b", "c")) -> str:
    return log.add_search(SESSION, query, items, "one", "hash")


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all files, each of which is complete."""
    return [row for file in finished_files(folder, 0) for row in pq.read_table(file).to_pylist()]


def clicked(folder: Path) -> list[tuple[str, str]]:
    return sorted((row["query"], row["item"]) for row in rows(folder) if row["clicked"])


def test_a_period_becomes_one_file_when_no_click_can_come_any_more(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "clicks"
    log = opened(folder, clock)
    first = search(log)
    log.flush()
    clock.now += 25 * 60
    log.add_mark(first, 2, "click")
    log.add_mark(first, 3, "click")
    log.add_mark(first, 3, "down")
    log.add_mark(first, 1, "down")
    log.add_mark(first, 1, "up")
    second = search(log, "later")
    log.flush()
    assert rows(folder) == []
    clock.now = LATER
    log.flush()
    with pytest.raises(QueryError, match="within the time"):
        log.add_mark(first, 1, "click")
    log.add_mark(second, 1, "up")
    log.add_mark(second, 1, "none")
    found = rows(folder)
    assert [(row["item"], row["position"], row["clicked"], row["thumb"]) for row in found] == [
        ("a", 1, True, 1),
        ("b", 2, True, None),
        ("c", 3, False, -1),
    ]
    assert {(row["query"], row["session"], row["index"], row["model_hash"]) for row in found} == {("a red ring", SESSION, "one", "hash")}
    assert {row["time"].timestamp() for row in found} == {START}
    clock.now += 3600
    log.flush()
    assert [row["clicked"] for row in rows(folder) if row["query"] == "later"] == [False] * 3
    assert [path.suffix for path in folder.iterdir()] == [".parquet"] * 2


def test_the_importer_reads_the_files(tmp_path: Path) -> None:
    clock = Clock()
    log = opened(tmp_path, clock)
    log.add_mark(search(log, "a  Red ring 👍"), 2, "click")
    search(log, "\ud800", ("x",) * 200)
    log.flush()
    clock.now = LATER
    log.flush()
    reading = read_click_log(ColumnMap(tmp_path / "map.json", tmp_path, tmp_path, COLUMNS))
    with pytest.raises(StopIteration) as ended:
        next(reading)  # no bad row
    found, names = ended.value.value
    assert names.queries == ["a  Red ring 👍", "?"]
    assert found.clicks.tolist() == [0, 1, 0] + [0] * MOST_LOGGED
    assert found.rank.tolist() == [1, 2, 3, *range(1, MOST_LOGGED + 1)]
    assert set(found.time) == {START}


def test_two_servers_write_beside_each_other_and_each_takes_the_clicks_of_both(tmp_path: Path) -> None:
    clock = Clock()
    one, two = opened(tmp_path, clock), opened(tmp_path, clock)
    for number in range(20):
        of_one, of_two = search(one, f"one {number}"), search(two, f"two {number}")
        one.flush()
        one.add_mark(of_two, 1, "click")
        two.add_mark(of_one, 2, "click")
        two.flush()
    one.flush()
    clock.now = LATER
    two.flush()
    one.flush()
    assert len(rows(tmp_path)) == 120
    assert len(finished_files(tmp_path, 0)) == 1
    expected = [(f"one {number}", "b") for number in range(20)] + [(f"two {number}", "a") for number in range(20)]
    assert clicked(tmp_path) == sorted(expected)


def test_a_journal_that_another_server_just_finished_is_not_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".60.journal").symlink_to("gone")  # listed, but no longer there when it is opened
    opened(tmp_path, Clock()).flush()
    assert caplog.records == []


@pytest.mark.parametrize("cut", range(1, 80, 7))
def test_a_line_that_a_kill_cut_short_costs_only_itself(tmp_path: Path, cut: int) -> None:
    clock = Clock()
    log = opened(tmp_path, clock)
    search(log, "first")
    log.flush()
    (journal,) = tmp_path.glob(".*.journal")
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[:-cut])
    log.add_mark(search(log, "after"), 1, "click")
    log.flush()
    clock.now = LATER
    opened(tmp_path, clock).flush()
    assert clicked(tmp_path) == [("after", "a")]
    assert {row["query"] for row in rows(tmp_path)} == {"first", "after"}


@pytest.mark.parametrize(
    "line",
    [
        '{"search": "SEARCH", "query": "without results"}',
        '{"search": "SEARCH", "rank": 1, "kind": "love"}',
        '{"search": "SEARCH", "kind": "click"}',
        '{"search": "SEARCH", "query": 7, "session": "s", "time": "now", "index": "i", "model_hash": "h", "items": [1]}',
        '{"search": "SEARCH", "query": "q", "session": "s", "time": 1e300, "index": "i", "model_hash": "h", "items": ["a"]}',
        '{"search": "SEARCH", "query": "\\ud800", "session": "s", "time": 1, "index": "i", "model_hash": "h", "items": ["a"]}',
        "[" * 100_000,
        "\0" * 100,
    ],
)
def test_a_line_of_another_version_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str) -> None:
    clock = Clock()
    log = opened(tmp_path, clock)
    first = search(log, "first")
    log.flush()
    (journal,) = tmp_path.glob(".*.journal")
    with journal.open("a") as file:
        file.write(f"{line.replace('SEARCH', first)}\n")
    log.add_mark(first, 2, "click")
    log.flush()
    clock.now = LATER
    log.flush()
    assert [row["query"] for row in rows(tmp_path)] == ["first"] * 3
    assert clicked(tmp_path) == [("first", "b")]
    assert "lines left out: 1. A kill cut them short, or another version" in caplog.text


def test_a_kill_before_the_journal_is_removed_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    log = opened(tmp_path, clock)
    search(log)
    log.flush()
    clock.now = LATER
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            log.flush()
    assert len(rows(tmp_path)) == 3
    opened(tmp_path, clock).flush()
    assert len(rows(tmp_path)) == 3
    assert list(tmp_path.glob(".*.journal")) == []


def test_a_full_disk_is_one_warning_and_what_was_waiting_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    log = opened(tmp_path, clock)
    monkeypatch.setattr(module, "MOST_WAITING", 4)
    search(log, "before")
    log.flush()
    write = os.write

    def full(file: int, content: bytes) -> int:
        if len(content) < 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, bytes(content)[: len(content) - 30])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for number in range(6):
            search(log, f"full {number}")
            log.flush()
    (warning,) = caplog.messages
    assert "No space left on device" in warning
    log.flush()
    assert caplog.messages[1:] == [f"{tmp_path}: searches and clicks are logged again; 2 were lost."]
    clock.now = LATER
    log.flush()
    assert [row["query"] for row in rows(tmp_path)][::3] == ["before", "full 0", "full 1", "full 2", "full 3"]


def test_a_full_journal_loses_what_follows_until_the_next_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    log = opened(tmp_path, clock)
    search(log, "before")
    log.flush()
    with monkeypatch.context() as patch:
        patch.setattr(journals, "LARGEST_BYTES", 1)
        for number in range(3):
            search(log, f"full {number}")
            log.flush()
    clock.now += 600
    log.add_mark(search(log, "after"), 1, "click")
    log.flush()
    clock.now += 3600
    log.flush()
    assert [row["query"] for row in rows(tmp_path)][::3] == ["before", "after"]
    (warning,) = caplog.messages
    assert "serve.click_log_minutes" in warning


def test_ids_that_no_search_can_have_are_refused(tmp_path: Path) -> None:
    log = opened(tmp_path, Clock())
    right = search(log)
    start = int(right.partition("-")[0], 16)
    other_time, no_period = (f"{forged:x}-{'0' * 16}" for forged in (int(START) + 10**6, start - 1))
    for given in ("", "x", right[:-1], f"{right}0", other_time, no_period, f"../{right}", right.upper() + "\n"):
        with pytest.raises(QueryError, match="search"):
            log.add_mark(given, 1, "click")
    for rank in (0, MOST_LOGGED + 1, -1):
        with pytest.raises(QueryError, match="rank"):
            log.add_mark(right, rank, "click")
