"""Exports in other libraries' layouts: what is in them, what is left out, and that our importer reads ms-swift's."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reelnest.cli import cli
from reelnest.errors import ConfigError, DataError
from reelnest.records.exporting import Exported, export_data
from reelnest.records.importing import import_data


def write(folder: Path, videos: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    for name in ("a.mp4", "b.webm", "frame.png"):
        (folder / name).write_bytes(name.encode())
    for name, records in (("videos", videos), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


VIDEOS = [
    {"video_id": "a", "path": "a.mp4", "title": "A"},
    {"video_id": "b", "path": "b.webm"},
    {"video_id": "frames", "images": ["frame.png"]},
    {"video_id": "scene", "path": "a.mp4", "start": 1, "end": 2},
    {"video_id": "lost", "path": "lost.mp4"},
]
PAIRS: list[dict[str, Any]] = [
    {
        "query": {"text": "a cat"},
        "target": {"video": "a"},
        "split": "train",
        "negatives": [{"video": "b"}, {"text": "no"}, {"video": "frames"}],
    },
    {"query": {"video": "b"}, "target": {"text": "a dog"}, "split": "test", "relevance": 2},
    {"query": {"video": "a"}, "target": {"video": "b"}, "split": "train"},
    {"query": {"text": "x"}, "target": {"video": "frames"}, "split": "train"},
    {"query": {"text": "x"}, "target": {"video": "scene"}, "split": "train"},
    {"query": {"text": "x"}, "target": {"video": "b", "start": 1}, "split": "train"},
    {"query": {"text": "x"}, "target": {"video": "lost"}, "split": "train"},
    {"query": {"text": ""}, "target": {"video": "a"}, "split": "train"},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", VIDEOS, PAIRS)


def export(layout: str, data: Path) -> tuple[Exported, dict[str, list[dict[str, Any]]]]:
    destination = data.parent / "new"
    exported = export_data(layout, data, destination, 0.1, 0.1)
    files = {path.relative_to(destination).as_posix(): path for path in destination.rglob("*.jsonl")}
    return exported, {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in files.items()}


def test_ms_swift_gets_a_line_for_each_pair(data: Path) -> None:
    exported, files = export("ms-swift", data)
    a, b = str(data / "a.mp4"), str(data / "b.webm")
    assert files["train.jsonl"][0] == {
        "messages": [{"role": "user", "content": "a cat"}],
        "videos": [],
        "positive_messages": [[{"role": "user", "content": "<video>"}]],
        "positive_videos": [[a]],
        "negative_messages": [[{"role": "user", "content": "<video>"}], [{"role": "user", "content": "no"}]],
        "negative_videos": [[b], []],
    }
    assert [(line["videos"], line["positive_videos"]) for line in files["test.jsonl"]] == [([b], [[]])]
    assert exported.lines == {"test.jsonl": 1, "train.jsonl": 2}
    assert (exported.pairs, exported.skipped) == (3, {"images": 1, "segment": 2, "missing": 1, "bad_line": 1})


def test_sentence_transformers_gets_columns_of_one_type(data: Path) -> None:
    _, files = export("sentence-transformers", data)
    a, b = {"video": str(data / "a.mp4")}, {"video": str(data / "b.webm")}
    assert files == {
        "text_to_video/train.jsonl": [{"anchor": "a cat", "positive": a}],
        "text_to_video_negatives/train.jsonl": [{"anchor": "a cat", "positive": a, "negative": b}],
        "video_to_text/test.jsonl": [{"anchor": b, "positive": "a dog"}],
        "video_to_video/train.jsonl": [{"anchor": a, "positive": b}],
    }


def test_an_export_for_ms_swift_can_be_imported_again(data: Path, tmp_path: Path) -> None:
    export("ms-swift", data)
    for split in ("train", "test"):
        lines = (tmp_path / "new" / f"{split}.jsonl").read_text()
        (data / f"{split}.jsonl").write_text(lines.replace(f"{data}/", ""))  # paths relative to the file
    imported = import_data("ms-swift", data / "train.jsonl", tmp_path / "again")
    pairs = [json.loads(line) for line in (tmp_path / "again" / "pairs.jsonl").read_text().splitlines()]
    assert imported.skipped == ()
    assert pairs == [
        {"query": {"text": "a cat"}, "target": {"video": "a"}, "negatives": [{"video": "b"}, {"text": "no"}]},
        {"query": {"video": "a"}, "target": {"video": "b"}},
    ]


def test_pairs_without_a_split_get_that_of_a_training(tmp_path: Path) -> None:
    pairs = [{"query": {"text": f"text {at}"}, "target": {"text": f"target {at}"}} for at in range(200)]
    data = write(tmp_path / "data", [], pairs)
    exported, files = export("ms-swift", data)
    assert sorted(files) == ["test.jsonl", "train.jsonl", "validation.jsonl"]
    assert 140 < exported.lines["train.jsonl"] < 180


def test_what_cannot_be_exported_is_an_error_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown exporter 'swift'; did you mean 'ms-swift'\? Known: ms-swift, sentence-transformers"):
        export_data("swift", data, tmp_path / "new", 0.1, 0.1)
    only_images = write(tmp_path / "other", VIDEOS, PAIRS[3:4])
    with pytest.raises(DataError, match=r"no pair can be exported \(images 1\)"):
        export_data("ms-swift", only_images, tmp_path / "new", 0.1, 0.1)
    assert not (tmp_path / "new").exists()
    with pytest.raises(DataError, match="already exists"):
        export_data("ms-swift", data, tmp_path, 0.1, 0.1)


def test_the_command_prints_what_was_exported(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(Path(__file__).parents[3] / "configs")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"data": {"test_fraction": 0.2}}))
    done = CliRunner().invoke(cli, ["data", "export", "ms-swift", "new"], catch_exceptions=False)
    assert done.output.splitlines() == [
        "new: 3 pairs",
        "  test.jsonl: 1 lines",
        "  train.jsonl: 2 lines",
        "5 pairs were left out (segment 2, bad_line 1, images 1, missing 1)",
    ]
