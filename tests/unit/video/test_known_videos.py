"""What is known of video files, and when it is forgotten."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from reelnest.errors import DataError, VideoError
from reelnest.records.segments import Segment
from reelnest.video import known_videos
from reelnest.video.decoder import VideoInfo
from reelnest.video.known_videos import FILE, Content, KnownVideos
from tests.support.video_keys import content_of

INFO = VideoInfo(frames=24, seconds=1.0, fps=24.0, width=64, height=48, decoder="pyav")
LONG_AGO = 10**18
"""In nanoseconds."""


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the test count as old enough."""
    monkeypatch.setattr(known_videos, "UNSETTLED_SECONDS", -1e9)


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes are read."""
    names: list[str] = []

    def digest(file: Path) -> bytes:
        names.append(file.name)
        return original(file)

    original: Callable[[Path], bytes] = known_videos._digest
    monkeypatch.setattr(known_videos, "_digest", digest)
    return names


def contents(folder: Path, *videos: Sequence[Path]) -> list[Content | VideoError]:
    with KnownVideos(folder / "cache") as known:
        return [content for _, content in known.contents(videos, lambda files: files)]


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(tmp_path: Path, read_files: list[str]) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"1234")
    first, second = contents(tmp_path, [file]), contents(tmp_path, [file])
    assert first == second == [content_of([file])]
    assert read_files == ["a.mp4"] * 2  # the second is of the line above
    assert first[0] == Content(content_of([file]).digest, 4)


def test_a_file_with_several_segments_is_read_once(tmp_path: Path, read_files: list[str]) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    digests = contents(tmp_path, *([tmp_path / "a.mp4"] for _ in range(50)), *([tmp_path / "b.mp4"] for _ in range(50)))
    assert sorted(read_files) == ["a.mp4", "b.mp4"]
    whole = content_of([tmp_path / "a.mp4"])
    assert digests[:50] == [whole] * 50
    first, second, open_ended = (whole.cut(segment).digest for segment in (Segment(0.0, 1.0), Segment(1.0, 2.0), Segment(0.0, None)))
    assert len({whole.cut(None).digest, first, second, open_ended}) == 4
    assert whole.cut(None) is whole


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("replaces", [False, True], ids=["written in place", "replaced"])
def test_other_bytes_with_the_size_and_time_of_the_old_ones_are_read(tmp_path: Path, replaces: bool) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"1234")
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    before = contents(tmp_path, [file])
    if replaces:
        file.unlink()
    file.write_bytes(b"5678")
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    assert contents(tmp_path, [file]) == [content_of([file])] != before


def test_a_file_that_changed_just_now_is_read_again(tmp_path: Path, read_files: list[str]) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"1234")
    assert contents(tmp_path, [file]) == contents(tmp_path, [file])
    assert read_files == ["a.mp4", "a.mp4"]


@pytest.mark.usefixtures("settled")
def test_equal_bytes_in_other_files_are_another_video(tmp_path: Path) -> None:
    for name, data in (("whole", b"1234"), ("begin", b"12"), ("end", b"34")):
        (tmp_path / name).write_bytes(data)
    whole, parts, same = contents(tmp_path, [tmp_path / "whole"], [tmp_path / "begin", tmp_path / "end"], [tmp_path / "whole"])
    assert whole == same != parts


def test_a_file_that_cannot_be_used_costs_its_video_only(tmp_path: Path) -> None:
    def files_of(name: str) -> list[Path]:
        if name == "refused":
            raise VideoError("unsafe_path", "refused")
        return [tmp_path / name]

    (tmp_path / "good").write_bytes(b"1")
    with KnownVideos(tmp_path / "cache") as known:
        found = dict(known.contents(["refused", "absent", "good"], files_of))
    refused, absent = found["refused"], found["absent"]
    assert isinstance(refused, VideoError)
    assert refused.reason == "unsafe_path"
    assert isinstance(absent, VideoError)
    assert absent.reason == "missing"
    assert str(tmp_path) not in str(absent)
    assert found["good"] == content_of([tmp_path / "good"])


def learn(folder: Path, *contents: Content) -> None:
    with KnownVideos(folder) as known:
        for content in contents:
            known.learn(content, "auto", INFO)


def inspection(folder: Path, content: Content, decoder: str = "auto") -> VideoInfo | None:
    with KnownVideos(folder) as known:
        return known.inspections([content], decoder)[0]


def test_an_inspection_is_known_for_its_bytes_decoder_code_and_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Content("aa", 1)
    learn(tmp_path, content)
    assert inspection(tmp_path, content) == INFO
    assert asdict(INFO) == asdict(inspection(tmp_path, Content("aa", 2)) or INFO)
    assert inspection(tmp_path, Content("ab", 1)) is None
    assert inspection(tmp_path, content, "pyav") is None
    for name, value in (("decoder_versions", {"av": "0.1"}), ("code_digest", "other code")):
        with monkeypatch.context() as patch:
            patch.setattr(known_videos, name, lambda *_, value=value: value)
            known_videos._how.cache_clear()
            assert inspection(tmp_path, content) is None
        known_videos._how.cache_clear()
    assert inspection(tmp_path, content) == INFO


def test_two_processes_learn_at_once(tmp_path: Path) -> None:
    with KnownVideos(tmp_path) as first, KnownVideos(tmp_path) as second:
        first.learn(Content("aa", 1), "auto", INFO)
        second.learn(Content("bb", 1), "auto", INFO)
    assert inspection(tmp_path, Content("aa", 1)) == inspection(tmp_path, Content("bb", 1)) == INFO


def test_what_no_other_run_uses_is_removed_once_it_is_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_videos, "SPARE_ROWS", 1)
    old, new = [Content(f"old {number}", 1) for number in range(3)], Content("new", 1)
    learn(tmp_path, *old[:2], new)
    with KnownVideos(tmp_path) as known:
        known.forget_others([new], "auto")
    assert inspection(tmp_path, old[0]) == INFO
    learn(tmp_path, old[2])
    with KnownVideos(tmp_path) as known:
        known.forget_others([new], "auto")
    assert [inspection(tmp_path, content) for content in (*old, new)] == [None, None, None, INFO]


def test_a_damaged_database_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    learn(tmp_path, Content("aa", 1))
    assert inspection(tmp_path, Content("aa", 1)) == INFO
    assert "is damaged and is replaced" in caplog.text


def test_a_database_of_another_version_is_emptied(tmp_path: Path) -> None:
    learn(tmp_path, Content("aa", 1))
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("PRAGMA user_version = 99")
    database.close()
    assert inspection(tmp_path, Content("aa", 1)) is None


def test_a_database_that_breaks_later_says_what_to_delete(tmp_path: Path) -> None:
    with KnownVideos(tmp_path) as known:
        known._database.execute("DROP TABLE inspections")
        with pytest.raises(DataError, match=r"known\.sqlite: cannot be read .* Delete it"):
            known.inspections([Content("aa", 1)], "auto")


def test_without_a_place_for_the_database_nothing_is_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).mkdir()
    learn(tmp_path, Content("aa", 1))
    assert inspection(tmp_path, Content("aa", 1)) is None
    assert "cannot be used" in caplog.text
