"""Segments in records: how they are written, which mistakes are found, and that one file is never in two splits."""

import json
from pathlib import Path
from typing import Any

import pytest

from reelnest.errors import DataError
from reelnest.records.changes import compare, read_contents
from reelnest.records.formats import Pair, Side, Video, read_pairs, read_videos
from reelnest.records.merging import merge
from reelnest.records.pair_segments import cut_videos, overlapping_segments, segmented_files
from reelnest.records.segments import Segment
from reelnest.records.splits import assign_splits

FILM = Video("film", "film.mp4", (), {"title": "A film"}, 1, {"language": "en"})


def write(folder: Path, name: str, *records: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def target(**side: Any) -> dict[str, Any]:
    return {"query": {"text": "a chase"}, "target": {"video": "film", **side}}


def test_a_video_may_be_a_segment_of_a_file(tmp_path: Path) -> None:
    write(
        tmp_path, "videos", {"video_id": "a", "path": "film.mp4", "start": 5, "end": 12.5}, {"video_id": "b", "path": "film.mp4", "end": 5}
    )
    videos, bad = read_videos(tmp_path)
    assert not bad
    assert [video.segment for video in videos] == [Segment(5.0, 12.5), Segment(0.0, 5.0)]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({"start": 7, "end": 5}, "start is 7 and end is 5; expected seconds with 0 ≤ start < end"),
        ({"start": 5, "end": 5.0000001}, "start is 5 and end is 5"),
        ({"start": -1}, "start is -1;"),
        ({"end": "5"}, 'end is a string ("5")'),
        ({"end": True}, "end is true or false"),
        ({"end": 10**400}, "end is 1000"),
    ],
)
def test_times_that_are_no_segment_are_errors_with_their_line(tmp_path: Path, times: dict[str, Any], words: str) -> None:
    write(tmp_path, "videos", {"video_id": "film", "path": "film.mp4"}, {"video_id": "a", "path": "film.mp4", **times})
    write(tmp_path, "pairs", target(), target(**times))
    for name, where, (_, bad) in (("videos", "", read_videos(tmp_path)), ("pairs", "target.", read_pairs(tmp_path, {"film"}))):
        (record,) = bad
        assert (record.file, record.line, record.reason) == (f"{name}.jsonl", 2, "bad_segment")
        assert words.replace("start is", f"{where}start is").replace("end is", f"{where}end is") in record.detail


def test_images_and_texts_have_no_segments(tmp_path: Path) -> None:
    write(tmp_path, "videos", {"video_id": "a", "images": ["1.png", "2.png"], "end": 1})
    write(tmp_path, "pairs", {"query": {"text": "a chase", "start": 1}, "target": {"video": "film"}})
    assert [record.reason for record in read_videos(tmp_path)[1]] == ["bad_segment"]
    (record,) = read_pairs(tmp_path, {"film"})[1]
    assert (record.reason, "query has times with a text" in record.detail) == ("wrong_side", True)


def test_a_side_with_times_is_a_video_of_its_own_with_the_texts_of_its_video(tmp_path: Path) -> None:
    chase = {"video": "film", "start": 0.5, "end": 2}
    write(tmp_path, "pairs", {**target(end=5), "negatives": [chase, {"video": "film"}]}, target(end=5.0), {"query": "x", "target": chase})
    pairs, bad = read_pairs(tmp_path, {"film"})
    assert not bad
    assert pairs[0].target == pairs[1].target == Side("video", "film#t=0,5")
    assert [side.record for side in pairs[0].negatives] == [{"video": "film", "start": 0.5, "end": 2.0}, {"video": "film"}]
    cut, usable, bad = cut_videos([FILM], pairs)
    assert (usable, bad) == (pairs, [])
    assert [(video.video_id, video.path, video.segment, video.fields, video.tags, video.source) for video in cut] == [
        ("film#t=0,5", "film.mp4", Segment(0.0, 5.0), FILM.fields, FILM.tags, "film"),
        ("film#t=0.5,2", "film.mp4", Segment(0.5, 2.0), FILM.fields, FILM.tags, "film"),
    ]


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (Video("film", None, ("1.png",), {}, 1), "consists of images"),
        (Video("film", "film.mp4", (), {}, 1, segment=Segment(0.0, 9.0)), "is a segment itself (0 s to 9 s)"),
        (Video("film#t=0,5", "other.mp4", (), {}, 7), "is another video's in videos.jsonl, line 7"),
    ],
)
def test_a_side_whose_segment_cannot_be_cut_is_an_error_with_its_line(tmp_path: Path, video: Video, words: str) -> None:
    write(tmp_path, "pairs", target(), target(end=5))
    pairs, _ = read_pairs(tmp_path, {"film"})
    cut, usable, (bad,) = cut_videos([FILM, video], pairs)
    assert (bad.file, bad.line, bad.reason) == ("pairs.jsonl", 2, "bad_segment")
    assert words in bad.detail
    assert (cut, usable) == ([], pairs[:1])


def test_all_segments_of_a_file_are_in_one_split() -> None:
    videos = [Video(f"{file}-{at}", f"./{file}.mp4", (), {}, 1, segment=Segment(at, at + 1.0)) for file in range(30) for at in range(4)]
    videos += [Video(f"{file}", f"{file}.mp4", (), {}, 1) for file in range(30)]
    sides = [Side("video", video.video_id) for video in videos]
    for file in range(30):
        segment = Segment(2.0, 7.0)
        sides.append(Side("video", f"{file}{segment.fragment}", segment))
    pairs = [Pair(Side("text", str(line)), side, 1.0, None, (), line) for line, side in enumerate(sides)]
    cut, _, _ = cut_videos(videos, pairs)
    files = segmented_files([*videos, *cut])
    splits = assign_splits(pairs, 0.3, 0.3, files)
    of_file: dict[str, set[str]] = {}
    for pair, split in zip(pairs, splits, strict=True):
        of_file.setdefault(files[pair.target.value], set()).add(split)
    assert len(of_file) == 30
    assert all(len(found) == 1 for found in of_file.values())
    assert set(splits) == {"train", "validation", "test"}


def test_without_segments_videos_that_share_a_file_are_split_as_before() -> None:
    videos = [Video(str(number), "film.mp4", (), {}, 1) for number in range(50)]
    assert segmented_files(videos) == {}
    pairs = [Pair(Side("text", f"t{number}"), Side("video", str(number)), 1.0, None, (), number) for number in range(50)]
    assert assign_splits(pairs, 0.3, 0.3, segmented_files(videos)) == assign_splits(pairs, 0.3, 0.3)


def test_segments_that_share_most_of_their_time_show_the_same_moment() -> None:
    times = {"a": (0.0, 10.0), "b": (2.0, 10.0), "c": (5.0, 15.0), "d": (3.0, 10.0), "last": (8.0, None), "end": (9.0, None)}
    videos = [Video(video_id, "film.mp4", (), {}, 1, segment=Segment(*pair)) for video_id, pair in times.items()]
    videos += [Video("other", "other.mp4", (), {}, 1, segment=Segment(0.0, 10.0)), FILM]
    assert overlapping_segments(videos) == {"a": ["b", "d"], "b": ["a", "d"], "d": ["a", "b"], "last": ["end"], "end": ["last"]}
    assert Segment(0.0, 10.0).shares(Segment(5.0, 15.0)) == pytest.approx(1 / 3)
    assert Segment(0.0, 1.0).shares(Segment(2.0, 3.0)) == 0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    times = {"start": 5.0, "end": 9.5}
    write(folder, "videos", {"video_id": "film", "path": "film.mp4"}, {"video_id": "a", "path": "film.mp4", **times})
    write(folder, "pairs", target(**times), target())
    (folder / "film.mp4").write_bytes(b"film")
    return folder


def test_merged_data_keeps_the_times_and_one_file(tmp_path: Path, source: Path) -> None:
    data, again = tmp_path / "data", tmp_path / "again"
    data.mkdir()
    assert merge([source], tmp_path / "none", data)
    assert sorted(file.name for file in data.iterdir()) == ["film.mp4", "pairs.jsonl", "videos.jsonl"]
    for name, read in (("videos", read_videos), ("pairs", lambda folder: read_pairs(folder, {"film", "a"}))):
        assert read(data) == read(source), name
    again.mkdir()
    assert not merge([source], data, again)
    write(source, "videos", {"video_id": "a", "path": "film.mp4", "start": 6})
    with pytest.raises(DataError, match=r'video "a" has other times than .*videos\.jsonl:2'):
        merge([source], data, again)


def test_changed_times_are_a_changed_video(tmp_path: Path, source: Path) -> None:
    before = read_contents(source, {"film.mp4": "1"}, 0.1, 0.1)
    assert len(set(before.splits.values())) == 1
    write(source, "videos", {"video_id": "film", "path": "film.mp4"}, {"video_id": "a", "path": "film.mp4", "start": 6.0, "end": 9.5})
    assert compare(before, read_contents(source, {"film.mp4": "1"}, 0.1, 0.1)).changed_videos == {"a": ["record"]}
