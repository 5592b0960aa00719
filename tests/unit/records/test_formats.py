import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reelnest.errors import DataError, VideoError
from reelnest.records.formats import (
    PAIR_KEYS,
    BadRecord,
    Side,
    Video,
    known_ids,
    read_pairs,
    read_quarantine,
    read_videos,
    video_files,
    write_quarantine,
)

Line = dict[str, Any] | str | bytes

VIDEO = {"video_id": "cat", "path": "cat.mp4"}
PAIR = {"query": {"text": "a cat"}, "target": {"video": "cat"}}


def write(folder: Path, name: str, *lines: Line) -> Path:
    raw = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode() for line in lines]
    (folder / name).write_bytes(b"".join(line + b"\n" for line in raw))
    return folder


def bad_video(folder: Path, line: Line) -> BadRecord:
    """The bad record of `line` between two good lines."""
    write(folder, "videos.jsonl", {"video_id": "before", "path": "a.mp4"}, line, {"video_id": "after", "path": "b.mp4"})
    videos, bad = read_videos(folder)
    assert [video.video_id for video in videos] == ["before", "after"]
    assert [(record.file, record.line) for record in bad] == [("videos.jsonl", 2)]
    return bad[0]


def bad_pair(folder: Path, line: Line) -> BadRecord:
    write(folder, "pairs.jsonl", PAIR, line, PAIR)
    pairs, bad = read_pairs(folder, {"cat", "dog"})
    assert [pair.line for pair in pairs] == [1, 3]
    assert [(record.file, record.line) for record in bad] == [("pairs.jsonl", 2)]
    return bad[0]


def test_a_video_is_read_with_its_line_and_the_text_fields_that_are_not_blank(tmp_path: Path) -> None:
    write(tmp_path, "videos.jsonl", {**VIDEO, "caption": "a cat sleeps", "title": "Cat", "ocr": "  ", "asr": None})
    videos, bad = read_videos(tmp_path)
    assert videos == [Video("cat", "cat.mp4", (), {"title": "Cat", "caption": "a cat sleeps"}, 1)]
    assert list(videos[0].fields) == ["title", "caption"]
    assert bad == []


def test_tags_of_a_video_are_strings_and_not_text_fields(tmp_path: Path) -> None:
    tags: list[Any] = [{"language": "en"}, ["en"], {"year": 7}, {"asr": ""}, {"video_id": ""}]
    write(tmp_path, "videos.jsonl", *({**VIDEO, "tags": value} for value in tags))
    videos, bad = read_videos(tmp_path)
    assert [video.tags for video in videos] == [{"language": "en"}]
    assert [record.reason for record in bad] == ["wrong_type", "wrong_type", "unknown_key", "unknown_key"]
    assert "tags.year" in bad[1].detail


def test_frames_of_a_video_are_read_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, "videos.jsonl", {"video_id": "cat", "images": ["2.png", "1.png"]})
    videos, _ = read_videos(tmp_path)
    assert videos[0].images == ("2.png", "1.png")
    assert videos[0].path is None


def test_all_four_kinds_of_pair_are_read_with_their_keys(tmp_path: Path) -> None:
    text, cat, dog = {"text": "a cat"}, {"video": "cat"}, {"video": "dog"}
    write(
        tmp_path,
        "pairs.jsonl",
        {"query": text, "target": cat, "relevance": 2, "split": "test", "negatives": [dog, "a dog", dog]},
        {"query": cat, "target": text},
        {"query": text, "target": {"text": "a kitten"}},
        {"query": cat, "target": dog},
    )
    pairs, bad = read_pairs(tmp_path, {"cat", "dog"})
    assert bad == []
    assert [(pair.query.kind, pair.target.kind) for pair in pairs] == [
        ("text", "video"),
        ("video", "text"),
        ("text", "text"),
        ("video", "video"),
    ]
    assert (pairs[0].relevance, pairs[0].split, pairs[0].line) == (2.0, "test", 1)
    assert pairs[0].negatives == (Side("video", "dog"), Side("text", "a dog"))
    assert (pairs[1].relevance, pairs[1].split, pairs[1].negatives) == (1.0, None, ())


def test_a_bare_string_is_a_video_only_where_it_equals_a_known_id(tmp_path: Path) -> None:
    write(tmp_path, "pairs.jsonl", {"query": "cat.mp4", "target": "cat"}, {"query": "videos/cat.mp4", "target": "Cat"})
    pairs, _ = read_pairs(tmp_path, {"cat"})
    assert (pairs[0].query, pairs[0].target) == (Side("text", "cat.mp4"), Side("video", "cat"))
    assert (pairs[1].query.kind, pairs[1].target.kind) == ("text", "text")


def test_the_id_of_a_bad_line_is_still_known(tmp_path: Path) -> None:
    write(tmp_path, "videos.jsonl", {"video_id": "cat", "path": "/etc/passwd"}, {"video_id": "dog", "path": "dog.mp4"}, '{"video_id": "hal')
    assert known_ids(*read_videos(tmp_path)) == {"cat", "dog"}


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "videos.jsonl").write_bytes(b'\xef\xbb\xbf{"video_id": "cat", "path": "cat.mp4"}\r\n{"video_id": "dog", "path": "dog.mp4"}')
    videos, bad = read_videos(tmp_path)
    assert [video.video_id for video in videos] == ["cat", "dog"]
    assert bad == []


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        pytest.param("", "empty_line", "delete the line", id="an empty line"),
        pytest.param('{"video_id": "cat", "pa', "bad_json", "one JSON object per line", id="a half-written line"),
        pytest.param('["cat"]', "not_an_object", "a list", id="a list"),
        pytest.param('"cat"', "not_an_object", '"cat"', id="a string"),
        pytest.param("null", "not_an_object", "null", id="null"),
        pytest.param("[" * 100_000, "bad_json", "JSON", id="brackets without end"),
        pytest.param('{"video_id": "cat", "path": "a.mp4", "asr": ' + "9" * 5000 + "}", "bad_json", "JSON", id="a number without end"),
        pytest.param('{"video_id": "caf\u00e9", "path": "a.mp4"}'.encode("latin-1"), "wrong_encoding", "UTF-8", id="Latin-1"),
        pytest.param('{"video_id": "cat\\ud800", "path": "a.mp4"}', "wrong_encoding", "surrogate", id="half a surrogate pair"),
        pytest.param('{"video_id": "cat", "video_id": "dog", "path": "a.mp4"}', "duplicate_key", '"video_id"', id="a key twice"),
        pytest.param({**VIDEO, "titel": "Cat"}, "unknown_key", '"titel"', id="an unknown key"),
        pytest.param({"path": "cat.mp4"}, "missing_id", "video_id is missing", id="no id"),
        pytest.param({**VIDEO, "video_id": " "}, "missing_id", "empty", id="a blank id"),
        pytest.param({**VIDEO, "video_id": 7}, "wrong_type", "a number (7)", id="a number as id"),
        pytest.param({**VIDEO, "title": ["Cat"]}, "wrong_type", "title is a list", id="a list as title"),
        pytest.param({**VIDEO, "images": ["1.png"]}, "path_and_images", "remove", id="both path and images"),
        pytest.param({"video_id": "cat"}, "no_path", "expected path", id="neither path nor images"),
        pytest.param({"video_id": "cat", "path": None}, "no_path", "expected path", id="a null path"),
        pytest.param({"video_id": "cat", "images": []}, "wrong_type", "at least one", id="no images"),
        pytest.param({"video_id": "cat", "images": "1.png"}, "wrong_type", "a list", id="images that are no list"),
        pytest.param({"video_id": "cat", "images": ["1.png", 2]}, "wrong_type", "images[1]", id="an image that is no name"),
        pytest.param({**VIDEO, "path": "/etc/passwd"}, "unsafe_path", "absolute", id="an absolute path"),
        pytest.param({**VIDEO, "path": "C:\\cat.mp4"}, "unsafe_path", "absolute", id="a Windows path"),
        pytest.param({**VIDEO, "path": "../cat.mp4"}, "unsafe_path", "contains “..”", id="a path that climbs out"),
        pytest.param({**VIDEO, "path": "a/../../cat.mp4"}, "unsafe_path", "contains “..”", id="a path that climbs out later"),
        pytest.param({"video_id": "cat", "images": ["1.png", "../2.png"]}, "unsafe_path", "contains “..”", id="an image that climbs out"),
        pytest.param({**VIDEO, "path": ""}, "unsafe_path", "empty", id="an empty path"),
        pytest.param({**VIDEO, "path": "a\0b"}, "unsafe_path", "NUL", id="a NUL character"),
        pytest.param({**VIDEO, "video_id": "a\0b"}, "nul_character", "video_id", id="a NUL character in an id"),
        pytest.param({**VIDEO, "title": "a\0b"}, "nul_character", "title", id="a NUL character in a title"),
        pytest.param({**VIDEO, "tags": {"a": "b\0"}}, "nul_character", "tags.a", id="a NUL character in a tag"),
        pytest.param(
            '{"video_id": "cat", "path": "a.mp4", "tags": {"\\ud800": "x"}}', "wrong_encoding", "name of a tag", id="half a pair in a tag"
        ),
        pytest.param({**VIDEO, "tags": {str(at): "" for at in range(101)}}, "too_many_tags", "at most 100", id="very many tags"),
        pytest.param({**VIDEO, "tags": {"a": "x" * 1001}}, "tag_too_long", "at most 1000", id="a long tag"),
        pytest.param({**VIDEO, "tags": {"x" * 1001: "a"}}, "tag_too_long", "at most 1000", id="a long name of a tag"),
        pytest.param({**VIDEO, "video_id": "\u200b\u2060"}, "missing_id", "empty", id="an id without width"),
        pytest.param({**VIDEO, "video_id": "x" * 1001}, "id_too_long", "at most 1000", id="a long id"),
        pytest.param({"video_id": "cat", "images": ["1.png"] * 100_001}, "too_many_images", "at most 100000", id="very many images"),
    ],
)
def test_a_video_line_that_cannot_be_used_is_a_bad_record(tmp_path: Path, line: Line, reason: str, message: str) -> None:
    record = bad_video(tmp_path, line)
    assert record.reason == reason
    assert message in record.detail


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        pytest.param("", "empty_line", "delete the line", id="an empty line"),
        pytest.param('{"query": "a c', "bad_json", "one JSON object per line", id="a half-written line"),
        pytest.param({**PAIR, "score": 1}, "unknown_key", '"score"', id="an unknown key"),
        pytest.param({"target": "cat"}, "missing_query", "no query", id="no query"),
        pytest.param({"query": "a cat", "target": None}, "missing_target", "no target", id="no target"),
        pytest.param({**PAIR, "target": {"video": "cow"}}, "unknown_video", '"cow"', id="an unknown video"),
        pytest.param({**PAIR, "negatives": [{"video": "cow"}]}, "unknown_video", "negatives[0]", id="an unknown video as negative"),
        pytest.param({**PAIR, "query": "  "}, "empty_text", "query", id="a blank text"),
        pytest.param({**PAIR, "query": {"text": ""}}, "empty_text", "query", id="an empty text"),
        pytest.param({**PAIR, "query": "\u200b \u200d\ufeff"}, "empty_text", "query", id="a text without width"),
        pytest.param({**PAIR, "query": "a\0b"}, "nul_character", "query.text", id="a NUL character in a text"),
        pytest.param({**PAIR, "negatives": ["a"] * 10_001}, "too_many_negatives", "at most 10000", id="very many negatives"),
        pytest.param({**PAIR, "relevance": 1e308}, "bad_relevance", "to 1,000,000", id="a relevance whose sums overflow"),
        pytest.param({**PAIR, "query": {}}, "wrong_side", "neither", id="a side with nothing in it"),
        pytest.param({**PAIR, "query": {"text": "a", "video": "cat"}}, "wrong_side", "both", id="a side that is text and video"),
        pytest.param({**PAIR, "query": {"image": "a"}}, "unknown_key", "query.image", id="a side of an unknown kind"),
        pytest.param({**PAIR, "query": 7}, "wrong_type", "a number (7)", id="a number as query"),
        pytest.param({**PAIR, "query": {"text": ["a"]}}, "wrong_type", "query.text is a list", id="a list as text"),
        pytest.param({**PAIR, "negatives": "dog"}, "wrong_type", "a list of sides", id="negatives that are no list"),
        pytest.param({**PAIR, "negatives": ["dog", "cat"]}, "contradictory_negative", "target", id="the target as negative"),
        pytest.param({**PAIR, "negatives": ["a cat"]}, "contradictory_negative", "query", id="the query as negative"),
        pytest.param({**PAIR, "relevance": 0}, "bad_relevance", "from 0.000001", id="relevance 0"),
        pytest.param({**PAIR, "relevance": -1}, "bad_relevance", "from 0.000001", id="negative relevance"),
        pytest.param({**PAIR, "relevance": 1e-320}, "bad_relevance", "from 0.000001", id="a relevance too small"),
        pytest.param({**PAIR, "query": "\u3164\u2800\ufe0f\u0301"}, "empty_text", "query", id="a text of fillers and marks"),
        pytest.param({**PAIR, "query": {"video": "CAT"}}, "unknown_video", 'mean "cat"', id="a video in other case"),
        pytest.param({**PAIR, "query": {"video": " cat"}}, "unknown_video", 'mean "cat"', id="a video with white space"),
        pytest.param({**PAIR, "relevance": True}, "bad_relevance", "true", id="true as relevance"),
        pytest.param({**PAIR, "relevance": "1"}, "bad_relevance", '"1"', id="a string as relevance"),
        pytest.param('{"query": "a", "target": "cat", "relevance": NaN}', "not_a_number", "NaN", id="NaN"),
        pytest.param('{"query": "a", "target": "cat", "relevance": -Infinity}', "not_a_number", "-Infinity", id="minus infinity"),
        pytest.param('{"query": "a", "target": "cat", "relevance": 1e999}', "bad_relevance", "inf", id="a number too large"),
        pytest.param('{"query": "a", "target": "cat", "relevance": 1' + "0" * 400 + "}", "bad_relevance", "inf", id="an integer too large"),
        pytest.param({**PAIR, "split": "dev"}, "bad_split", "validation", id="an unknown split"),
        pytest.param({**PAIR, "split": ["test"]}, "bad_split", "validation", id="a split that is no string"),
        pytest.param({"query": "cat", "target": {"video": "cat"}}, "self_pair", "the same video", id="a video with itself"),
        pytest.param({"query": "a", "target": {"text": "a"}}, "self_pair", "the same text", id="a text with itself"),
    ],
)
def test_a_pair_line_that_cannot_be_used_is_a_bad_record(tmp_path: Path, line: Line, reason: str, message: str) -> None:
    record = bad_pair(tmp_path, line)
    assert record.reason == reason
    assert message in record.detail


def test_a_title_without_a_visible_character_is_no_title_and_signs_of_scripts_are_visible(tmp_path: Path) -> None:
    write(tmp_path, "videos.jsonl", {**VIDEO, "title": "\u200b\u200c\ufeff\n", "caption": "नमस्ते 👩‍🚀"})
    (video,), _ = read_videos(tmp_path)
    assert video.fields == {"caption": "नमस्ते 👩‍🚀"}


def test_a_long_id_does_not_fill_the_quarantine(tmp_path: Path) -> None:
    record = bad_video(tmp_path, {**VIDEO, "video_id": "x" * 1_000_000})
    assert (record.reason, record.video_id) == ("id_too_long", None)
    assert len(record.detail) < 300


def test_of_two_videos_with_one_id_the_first_is_used(tmp_path: Path) -> None:
    write(tmp_path, "videos.jsonl", VIDEO, {"video_id": "dog", "path": "dog.mp4"}, {**VIDEO, "path": "other.mp4"})
    videos, bad = read_videos(tmp_path)
    assert [(video.video_id, video.path) for video in videos] == [("cat", "cat.mp4"), ("dog", "dog.mp4")]
    assert [(record.line, record.reason, record.video_id) for record in bad] == [(3, "duplicate_id", "cat")]
    assert "line 1" in bad[0].detail


def test_a_bad_line_does_not_take_the_id_from_a_good_one(tmp_path: Path) -> None:
    write(tmp_path, "videos.jsonl", {**VIDEO, "path": "/cat.mp4"}, VIDEO)
    videos, bad = read_videos(tmp_path)
    assert [video.line for video in videos] == [2]
    assert [record.reason for record in bad] == ["unsafe_path"]


def test_a_last_line_without_an_end_may_be_truncated(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query": "a", "target": "cat"}\n{"query": "b", "tar')
    pairs, bad = read_pairs(tmp_path, {"cat"})
    assert len(pairs) == 1
    assert (bad[0].line, bad[0].reason) == (2, "bad_json")
    assert "truncated" in bad[0].detail


def test_a_line_above_the_size_limit_is_skipped_as_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelnest.records.json_lines.MAX_LINE_BYTES", 100)
    write(tmp_path, "videos.jsonl", VIDEO, {**VIDEO, "video_id": "dog", "asr": "x" * 1000}, {**VIDEO, "video_id": "cow"})
    videos, bad = read_videos(tmp_path)
    assert [(video.video_id, video.line) for video in videos] == [("cat", 1), ("cow", 3)]
    assert [(record.line, record.reason) for record in bad] == [(2, "line_too_long")]


def test_a_link_out_of_the_data_folder_is_unsafe(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"x")
    data = tmp_path / "data"
    (data / "videos").mkdir(parents=True)
    (data / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (data / "folder").symlink_to(tmp_path)
    assert bad_video(data, {"video_id": "cat", "path": "link.mp4"}).reason == "unsafe_path"
    assert bad_video(data, {"video_id": "cat", "path": "folder/secret.mp4"}).reason == "unsafe_path"
    (data / "loop.mp4").symlink_to("loop.mp4")
    loop = bad_video(data, {"video_id": "cat", "path": "loop.mp4"})
    assert (loop.reason, "link" in loop.detail, str(data) in loop.detail) == ("unsafe_path", True, False)  # no path of this machine
    with pytest.raises(VideoError) as caught:
        video_files(Video("cat", "link.mp4", (), {}, 1), data)
    assert caught.value.reason == "unsafe_path"


def test_a_circular_link_is_a_bad_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    with pytest.raises(VideoError):
        video_files(Video("cat", "a.mp4", (), {}, 1), tmp_path)


def test_a_link_within_the_data_folder_and_a_data_folder_that_is_a_link_are_fine(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "cat.mp4").write_bytes(b"x")
    (disk / "link.mp4").symlink_to(disk / "cat.mp4")
    (tmp_path / "data").symlink_to(disk)
    assert video_files(Video("cat", "link.mp4", (), {}, 1), tmp_path / "data") == [(disk / "cat.mp4").resolve()]


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"x")
    with pytest.raises(VideoError, match=r"2\.png") as caught:
        video_files(Video("cat", None, ("1.png", "2.png"), {}, 1), tmp_path)
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("missing", ["folder", "videos.jsonl", "pairs.jsonl"])
def test_missing_data_is_an_error_with_advice(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "data"
    if missing != "folder":
        folder.mkdir()
    read = partial(read_pairs, video_ids=set()) if missing == "pairs.jsonl" else read_videos
    with pytest.raises(DataError, match=r"(?s)data.*Your own data.*reelnest sample"):
        read(folder)


def test_the_quarantine_reads_back_as_the_files_and_lines_that_it_lists(tmp_path: Path) -> None:
    bad = [
        BadRecord("videos.jsonl", 3, "truncated", "cut off\u2028here", "cat"),
        BadRecord("pairs.jsonl", 12, "bad_json", "“half”"),
        BadRecord("pairs.jsonl", 4, "empty_line", "empty"),
    ]
    path = tmp_path / "reports" / "quarantine.jsonl"
    write_quarantine(path, bad)
    assert read_quarantine(path) == {("videos.jsonl", 3), ("pairs.jsonl", 12), ("pairs.jsonl", 4)}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert [(record["file"], record["line"]) for record in records] == [("pairs.jsonl", 4), ("pairs.jsonl", 12), ("videos.jsonl", 3)]
    assert records[2]["video_id"] == "cat"
    write_quarantine(path, [])
    assert read_quarantine(path) == set()


def test_a_missing_quarantine_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reelnest validate"):
        read_quarantine(tmp_path / "quarantine.jsonl")
    (tmp_path / "quarantine.jsonl").write_text('{"file": "videos.jsonl"}\n')
    with pytest.raises(DataError, match="reelnest validate"):
        read_quarantine(tmp_path / "quarantine.jsonl")


def test_values_nested_very_deep_are_bad_records(tmp_path: Path) -> None:
    values = ["[" * depth + "]" * depth for depth in range(90, 1000, 3)]
    lines = [f'{{"query": "a", "target": "cat", "{key}": {value}}}' for key in PAIR_KEYS for value in values]
    write(tmp_path, "pairs.jsonl", *lines)
    pairs, bad = read_pairs(tmp_path, {"cat"})
    assert pairs == []
    assert len(bad) == len(lines)


def test_a_key_that_occurs_twice_among_very_many_is_found_in_time(tmp_path: Path) -> None:
    keys = ", ".join(f'"k{at}": 1' for at in range(100_000))
    started = time.monotonic()
    assert bad_video(tmp_path, f'{{{keys}, "k99999": 1}}').reason == "duplicate_key"
    assert time.monotonic() - started < 10
