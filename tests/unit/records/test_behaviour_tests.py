"""`behaviour.jsonl`: valid tests, and messages for bad lines."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reelnest.errors import DataError
from reelnest.records.behaviour_tests import BehaviourTest, belong_to_other_data, read_behaviour, stored_behaviour, write_behaviour

GOOD: list[dict[str, Any]] = [
    {"kind": "invariance", "query": "a red hoop", "same_as": "a crimson ring"},
    {"kind": "direction", "query": "a ball rolls left", "video": "v1", "above": ["v2", "v3"]},
    {"kind": "minimum", "query": "a red ball", "video": ["v1", "v2"], "top": 3},
]


def written(folder: Path, *lines: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "behaviour.jsonl").write_text(text, encoding="utf-8")
    return folder


def read(data: Path) -> Any:
    return read_behaviour(data, {"v1", "v2", "v3"}, {"v9": "truncated"}, 100)


def test_each_kind_is_read_with_its_defaults(tmp_path: Path) -> None:
    tests, bad = read(written(tmp_path, *GOOD))
    assert bad == []
    assert tests == [
        BehaviourTest("invariance", "a red hoop", "a crimson ring", (), (), 10, 5, 1),
        BehaviourTest("direction", "a ball rolls left", "", ("v1",), ("v2", "v3"), 0, 0, 2),
        BehaviourTest("minimum", "a red ball", "", ("v1", "v2"), (), 3, 0, 3),
    ]


def test_stored_tests_are_read_back(tmp_path: Path) -> None:
    tests, _ = read(written(tmp_path, *GOOD))
    write_behaviour(tmp_path / "reports" / "behaviour.jsonl", tests)
    assert stored_behaviour(tmp_path / "reports" / "behaviour.jsonl") == tests


def test_without_the_file_there_are_no_tests(tmp_path: Path) -> None:
    assert read(tmp_path) == ([], [])
    assert stored_behaviour(tmp_path / "behaviour.jsonl") == []


@pytest.mark.parametrize(
    ("videos", "other"), [(["v1", "v4", "v5"], True), (["v1", "v2", "v5"], False), (["v4"], True), (["v9", "v9"], False), ([], False)]
)
def test_a_file_that_names_mostly_unknown_videos_belongs_to_other_data(videos: list[str], other: bool, tmp_path: Path) -> None:
    minimum = [{"kind": "minimum", "query": "a red ball", "video": video} for video in videos]
    assert belong_to_other_data(*read(written(tmp_path, GOOD[0], *minimum))) == other


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"kind": "speed"}, "bad_kind", 'kind is "speed"; expected invariance, direction, minimum'),
        ({"kind": None}, "bad_kind", "kind is null"),
        ({"kind": "direction"}, "missing_above", "a test of kind direction needs kind, query, video, above"),
        ({"videos": "v1"}, "unknown_key", "videos"),
        ({"query": " "}, "empty_text", "query is an empty text"),
        ({"query": "x" * 101}, "text_too_long", "101 characters; at most 100"),
        ({"video": "v4"}, "unknown_video", 'video "v4" is not in'),
        ({"video": "v9"}, "bad_video", "is quarantined \\(truncated\\)"),
        ({"video": []}, "wrong_type", "empty list"),
        ({"video": 7}, "wrong_type", "video is a number"),
        ({"top": 0}, "out_of_range", "from 1 to 1000"),
        ({"top": "10"}, "wrong_type", "whole number"),
        ({"kind": "invariance", "same_as": "a red ball", "video": None}, "same_query", "same text"),
        ({"kind": "invariance", "same_as": "a crimson ball", "video": None, "shared": 11}, "out_of_range", "from 1 to 10"),
        ({"kind": "direction", "above": "v1"}, "contradiction", "is in both video and above"),
    ],
)
def test_a_bad_line_is_reported_with_its_number_and_the_other_lines_are_read(
    tmp_path: Path, change: dict[str, Any], reason: str, message: str
) -> None:
    line = {"kind": "minimum", "query": "a red ball", "video": "v1"} | change
    tests, bad = read(written(tmp_path, GOOD[0], line, GOOD[1]))
    assert [test.line for test in tests] == [1, 3]
    ((file, number, actual),) = [(record.file, record.line, record.reason) for record in bad]
    assert (file, number, actual) == ("behaviour.jsonl", 2, reason)
    assert re.search(message, bad[0].detail)


def test_invalid_json_is_reported(tmp_path: Path) -> None:
    tests, bad = read(written(tmp_path, "{", GOOD[0]))
    assert (len(tests), bad[0].reason) == (1, "bad_json")


def test_a_stored_suite_of_another_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a file of behaviour tests"):
        stored_behaviour(written(tmp_path, GOOD[0]) / "behaviour.jsonl")
