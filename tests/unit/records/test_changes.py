"""Differences between two versions of the data."""

import json
from pathlib import Path
from typing import Any

import pytest

from reelnest.records.changes import NOTHING, Contents, as_json, as_text, compare, read_contents

UNKNOWN: dict[str, list[float]] = {"before": [], "after": []}


def contents(folder: Path, videos: list[dict[str, Any]], pairs: list[dict[str, Any]], files: dict[str, str]) -> Contents:
    folder.mkdir(exist_ok=True)
    (folder / "videos.jsonl").write_text("".join(f"{json.dumps(video)}\n" for video in videos))
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    return read_contents(folder, files, 0.1, 0.1)


@pytest.fixture
def before(tmp_path: Path) -> Contents:
    videos = [{"video_id": name, "path": f"./{name}.mp4", "title": "t"} for name in "abc"]
    pairs = [{"query": f"find {name}", "target": name, "split": "train"} for name in "abc"]
    return contents(tmp_path, videos, pairs, {f"{name}.mp4": f"hash {name}" for name in "abc"})


def test_changes_are_counted_by_kind_and_split(before: Contents, tmp_path: Path) -> None:
    videos = [
        {"video_id": "a", "path": "a.mp4", "title": "t"},
        {"video_id": "b", "path": "b.mp4", "title": "other"},
        {"video_id": "d", "path": "d.mp4"},
    ]
    pairs = [
        {"query": "find a", "target": {"video": "a"}, "split": "train"},
        {"query": "find b", "target": "b", "split": "test"},
        {"query": "a", "target": "d", "split": "train"},
    ]
    after = contents(tmp_path, videos, pairs, {"a.mp4": "other hash", "b.mp4": "hash b", "d.mp4": "hash d"})
    changes = compare(before, after)
    assert (changes.new_videos, changes.removed_videos) == (["d"], ["c"])
    assert changes.changed_videos == {"a": ["bytes"], "b": ["record"]}
    assert changes.headline == "1 video and 1 pair new, 2 videos and 1 pair changed, 1 video and 1 pair removed"
    assert changes.pair_counts == [
        ("text_to_video", "test", 1, 0, 1, 0),
        ("text_to_video", "train", 1, 0, 0, 1),
        ("video_to_video", "train", 1, 1, 0, 0),
    ]
    summary = as_json(changes, {"before": [1.0], "after": [1.0, 3.0]})
    assert summary["pairs"]["new"] == [{"query": {"video": "a"}, "target": {"video": "d"}, "split": "train"}]
    assert summary["distributions"]["seconds of a video"]["after"]["mean"] == 2


def test_a_version_equals_itself_and_is_all_new_compared_with_nothing(before: Contents) -> None:
    assert not compare(before, before).any
    assert compare(before, before).headline == "nothing new"
    assert compare(NOTHING, before).headline == "3 videos and 3 pairs new"


def test_a_hostile_id_cannot_control_the_terminal(before: Contents, tmp_path: Path) -> None:
    after = contents(tmp_path, [{"video_id": "\x1b[2J\x9b31m\u202e", "path": "x"}], [], {})
    text = as_text(compare(before, after), UNKNOWN)
    assert all(character.isprintable() or character == "\n" for character in text)
