"""Layouts of Hugging Face's video sets, of WebDataset and of folders with subtitles, written by hand from their descriptions."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.unit.records.layout_files import SUBRIP, clips, imported, skipped, write_lines


def test_the_video_sets_of_mmeb_are_read_from_parquet_and_json_lines(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "videos/video7.mp4", "videos/video8.mp4", "y_000001_000011.mp4", "d.avi")
    (source / "data").mkdir()
    rows = [
        {"video_id": "video7", "video": "video7.mp4", "caption": "a cat", "url": "u", "category": 3},
        {"video_id": "video8", "video": "video8.mp4", "caption": "a dog", "url": "v", "category": 4},
        {"video_id": "video9", "video": "video9.mp4", "caption": "a bird", "url": "w", "category": 4},
    ]
    pq.write_table(pa.Table.from_pylist(rows), source / "data" / "test_1k-00000-of-00001.parquet")
    write_lines(
        source / "train.jsonl", [{"videoID": "y_000001_000011", "enCap": ["first", "second"]}, {"video": "d.avi", "caption": "a deer"}]
    )
    write_lines(source / "val.jsonl", [{"video": "d.avi"}])
    result, pairs = imported("mmeb", source, tmp_path)
    assert pairs == [
        ("first", "y_000001_000011", "train"),
        ("second", "y_000001_000011", "train"),
        ("a deer", "d", "train"),
        ("a cat", "video7", "test"),
        ("a dog", "video8", "test"),
    ]
    assert skipped(result) == [
        ("val.jsonl", 1, "wrong_layout"),
        ("test_1k-00000-of-00001.parquet", 3, "missing"),
        ("test_1k-00000-of-00001.parquet", 3, "bad_video"),
    ]


WEBVTT = """WEBVTT - a title

NOTE 00:00 is the start

intro
00:01.000 --> 00:02.000 align:start
<c.yellow>scrolling line</c>

00:02.000 --> 00:03.000
scrolling line
next line
"""


def test_subtitles_become_a_field_and_texts_become_queries(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "a.mp4", "show/b.webm", "show/b.c.mp4", "silent.mkv")
    (source / "a.srt").write_text(SUBRIP, encoding="utf-8-sig", newline="")
    (source / "a.txt").write_text("a greeting\n\nhello\n")
    (source / "show" / "b.de.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nHallo\n")
    (source / "show" / "b.en.vtt").write_text(WEBVTT)
    (source / "show" / "b.vtt").write_text(WEBVTT)
    (source / "show" / "b.c.vtt").write_text("WEBVTT\n")
    (source / "silent.srt").write_bytes(b"\xff\xfe")
    result, pairs = imported("subtitles", source, tmp_path)
    assert pairs == [("a greeting", "a", None), ("hello", "a", None)]
    videos = {row["video_id"]: row for row in map(json.loads, (tmp_path / "first" / "videos.jsonl").read_text().splitlines())}
    assert {name: row.get("asr") for name, row in videos.items()} == {
        "a": "Hello there 42 times",
        "show/b": "scrolling line next line",
        "show/b.c": None,
        "silent": None,
    }
    assert skipped(result) == [("silent.srt", 1, "wrong_encoding")]


def write_tar(file: Path, members: dict[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as opened:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


def test_the_samples_of_a_webdataset_are_read_from_its_shards(tmp_path: Path) -> None:
    source = tmp_path / "source"
    described = {"caption": ["a dog", "an animal"], "title": "Dog", "views": 3}
    write_tar(
        source / "train" / "000.tar",
        {"x/1.mp4": b"one", "x/1.txt": b"a cat\n", "x/2.json": json.dumps(described).encode(), "x/2.mp4": b"two", "x/2.cls": b"7"},
    )
    write_tar(source / "test-000.tar", {"3.txt": b"no video", "4.webm": b"four", "4.json": b"{", "1.mp4": b"another", "1.txt": b"a bird"})
    result, pairs = imported("webdataset", source, tmp_path)
    assert pairs == [("a bird", "1", "test"), ("a cat", "x/1", "train"), ("a dog", "x/2", "train"), ("an animal", "x/2", "train")]
    videos = {row["video_id"]: row for row in map(json.loads, (tmp_path / "first" / "videos.jsonl").read_text().splitlines())}
    assert (sorted(videos), videos["x/2"]["title"]) == (["1", "4", "x/1", "x/2"], "Dog")
    assert {name: (tmp_path / "first" / row["path"]).read_bytes() for name, row in videos.items()} == {
        "1": b"another",
        "4": b"four",
        "x/1": b"one",
        "x/2": b"two",
    }
    assert skipped(result) == [("test-000.tar", 1, "no_path"), ("test-000.tar", 2, "bad_json")]


def test_a_member_of_a_tar_file_cannot_leave_the_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"../1.mp4": b"one", "/2.mp4": b"two", "3.mp4": b"three", "3.txt": b"fine"})
    result, pairs = imported("webdataset", tmp_path / "x.tar", tmp_path)
    assert pairs == [("fine", "3", None)]
    assert [row.reason for row in result.skipped] == ["unsafe_path"]
    assert sorted(path.name for path in (tmp_path / "first" / "videos").iterdir()) == ["2.mp4", "3.mp4"]


def test_samples_before_the_end_of_a_truncated_tar_file_are_imported(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tar(source / "a.tar", {"1.mp4": b"1" * 5000, "1.txt": b"first", "2.mp4": b"2" * 50_000, "2.txt": b"second"})
    (source / "a.tar").write_bytes((source / "a.tar").read_bytes()[:20_000])
    write_tar(source / "b.tar", {"3.mp4": b"three", "3.txt": b"third"})
    result, pairs = imported("webdataset", source, tmp_path)
    assert {pair[0] for pair in pairs} == {"first", "third"}
    assert ("a.tar", 3, "truncated") in skipped(result)
