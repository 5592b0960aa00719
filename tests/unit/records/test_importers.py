"""Importing data in other layouts: valid results, and bad rows with their file and row."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reelnest.cli import cli
from reelnest.errors import ConfigError, DataError
from reelnest.records import importing
from reelnest.records.formats import Side, known_ids, read_pairs, read_videos
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairRow, Row, VideoRow
from reelnest.records.importing import Imported, import_data
from reelnest.records.merging import copy_file


def write_source(folder: Path, videos: list[Any], pairs: list[Any]) -> Path:
    folder.mkdir()
    for name, records in (("video_meta.jsonl", videos), ("train_data.jsonl", pairs)):
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    videos = [{"video_id": "a", "path": "a.mp4", "title": "a ring", "duration": 3}, {"video_id": "b", "path": "b.mp4"}]
    pairs = [{"query": "a red ring", "target": "a"}, {"query": "a", "target": "b", "split": "test"}]
    return write_source(tmp_path / "source", videos, pairs)


def rows(imported: Imported) -> list[tuple[str, int, str]]:
    return [(row.origin.file, row.origin.row, row.reason) for row in imported.skipped]


def test_the_earlier_systems_data_can_be_read_as_ours(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    imported = import_data("earlier", source, tmp_path / "new")
    assert (imported.videos, imported.pairs, imported.skipped) == (2, 2, ())
    videos, bad = read_videos(tmp_path / "new")
    assert [(video.video_id, video.path, video.fields) for video in videos] == [("a", "a.mp4", {"title": "a ring"}), ("b", "b.mp4", {})]
    pairs, bad_pairs = read_pairs(tmp_path / "new", known_ids(videos, bad))
    assert [(pair.query, pair.target, pair.split) for pair in pairs] == [
        (Side("text", "a red ring"), Side("video", "a"), None),
        (Side("video", "a"), Side("video", "b"), "test"),
    ]
    assert not bad
    assert not bad_pairs
    assert (tmp_path / "new" / "a.mp4").read_bytes() == b"a.mp4"
    assert "video_meta.jsonl: duration (1 rows)" in caplog.text


def test_rows_that_cannot_be_used_are_named_and_the_others_are_imported(tmp_path: Path) -> None:
    videos = [
        {"video_id": "a", "path": "a.mp4"},
        "{broken",
        {"video_id": "a", "path": "b.mp4"},
        {"video_id": "lost", "path": "lost.mp4"},
        {"video_id": "outside", "path": "../a.mp4"},
        {"path": "b.mp4"},
    ]
    pairs = [{"query": "a ring", "target": "a"}, {"query": "gone", "target": "lost"}, {"query": "", "target": "a"}, {"query": "no target"}]
    imported = import_data("earlier", write_source(tmp_path / "source", videos, pairs), tmp_path / "new")
    assert (imported.videos, imported.pairs) == (1, 1)
    assert rows(imported) == [
        ("video_meta.jsonl", 2, "bad_json"),
        ("video_meta.jsonl", 3, "duplicate_id"),
        ("video_meta.jsonl", 4, "missing"),
        ("video_meta.jsonl", 5, "unsafe_path"),
        ("video_meta.jsonl", 6, "missing_id"),
        ("train_data.jsonl", 2, "bad_video"),
        ("train_data.jsonl", 3, "empty_text"),
        ("train_data.jsonl", 4, "missing_target"),
    ]
    skipped = [json.loads(line) for line in (tmp_path / "new" / "skipped.jsonl").read_text().splitlines()]
    assert [(row["file"], row["row"], row["reason"]) for row in skipped] == rows(imported)


def test_nothing_is_written_where_nothing_can_be_used(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", ["{"], [])
    with pytest.raises(DataError, match=r"no row can be used.*The first: video_meta\.jsonl, row 1: not readable as JSON"):
        import_data("earlier", source, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_folder_that_is_there_is_not_written_over(source: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match="already exists"):
        import_data("earlier", source, tmp_path / "new")


def test_another_layout_and_an_unknown_name_are_refused(source: Path, tmp_path: Path) -> None:
    (source / "train_data.jsonl").unlink()
    with pytest.raises(DataError, match=r"train_data\.jsonl: there is no such file"):
        import_data("earlier", source, tmp_path / "new")
    with pytest.raises(ConfigError, match=r"unknown importer 'msr'; did you mean 'msr-vtt'\? Known: .*earlier"):
        import_data("msr", source, tmp_path / "new")


def test_the_command_prints_what_was_imported_and_what_was_not(source: Path, tmp_path: Path) -> None:
    with (source / "train_data.jsonl").open("a") as file:
        file.write('{"query": "a ring"}\n')
    done = CliRunner().invoke(cli, ["data", "import", "earlier", str(source), str(tmp_path / "new")], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.splitlines()[0] == f"{tmp_path / 'new'}: 2 videos, 2 pairs"
    assert "train_data.jsonl, row 3: missing_target: there is no target" in done.output


def test_a_file_without_permission_costs_its_rows_alone(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(file: Path, target: Path) -> None:
        if file.name == "a.mp4":  # as for anybody but root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        copy_file(file, target)

    monkeypatch.setattr(importing, "copy_file", copy)
    monkeypatch.setattr(os, "access", lambda file, mode: (file.name, mode) != ("a.mp4", os.R_OK))
    imported = import_data("earlier", source, tmp_path / "new")
    assert (imported.videos, rows(imported)[0]) == (1, ("video_meta.jsonl", 1, "unreadable"))


def test_an_importer_of_another_package_brings_its_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    IMPORTERS.names()  # loads the package's importers, so that the copy includes them
    monkeypatch.setattr(IMPORTERS, "_by_name", dict(IMPORTERS._by_name))

    @IMPORTERS.register("captions")
    def read_captions(source: Path) -> Iterator[Row]:
        for number, path in enumerate(sorted(source.glob("*.txt")), start=1):
            origin, name = Origin(path.name, 1), path.stem
            yield PairRow(origin, {"query": {"text": path.read_text()}, "target": {"video": name}})
            yield VideoRow(origin, {"video_id": name, "path": f"videos/{number}.mp4"}, {f"videos/{number}.mp4": path.with_suffix(".mp4")})
        yield BadRow(Origin("all", 1), "for_this_test", "a row that is bad")

    source = tmp_path / "clips"
    source.mkdir()
    for name in ("a", "b"):
        (source / f"{name}.txt").write_text(f"the clip {name}")
        (source / f"{name}.mp4").write_bytes(b"video")
    imported = import_data("captions", source, tmp_path / "new")
    assert (imported.videos, imported.pairs, rows(imported)) == (2, 2, [("all", 1, "for_this_test")])
    assert "captions" in IMPORTERS.names()
    with pytest.raises(ValueError, match="importer 'captions' is already registered"):
        IMPORTERS.register("captions")(lambda _: iter(()))
