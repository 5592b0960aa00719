"""Records that may be added to the data, and errors, which leave no files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from reelnest.errors import DataError
from reelnest.records.formats import Side, read_pairs, read_videos
from reelnest.records.merging import merge


def write(folder: Path, videos: Iterable[dict[str, Any]], pairs: Iterable[dict[str, Any]] = (), content: str = "bytes") -> Path:
    folder.mkdir(exist_ok=True)
    for name, records in (("videos.jsonl", videos), ("pairs.jsonl", pairs)):
        (folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    for video in videos:
        (folder / video["path"]).write_text(content)
    return folder


def video(number: int, **more: Any) -> dict[str, Any]:
    return {"video_id": f"v{number}", "path": f"{number}.mp4", **more}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", [video(1, title="one")], [{"query": "a cat", "target": "v1"}, {"query": "cat", "target": "v1"}])


def merged(data: Path, *sources: Path, replacing: bool = False) -> Path:
    into = data.with_name("into")
    into.mkdir()
    merge(sources, data, into, replacing=replacing)
    return into


def error_of(data: Path, *sources: Path) -> str:
    with pytest.raises(DataError) as raised:
        merged(data, *sources)
    assert not list((data.parent / "into").iterdir())
    return str(raised.value)


def test_new_records_and_their_files_are_appended(data: Path, tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script> $(rm -rf /)\u202e"\n\\'
    source = write(tmp_path / "source", [video(2, title=hostile)], [{"query": hostile, "target": "v2", "negatives": ["v1", "a dog"]}])
    into = merged(data, source)
    videos, _ = read_videos(into)
    assert [(video.video_id, video.fields["title"]) for video in videos] == [("v1", "one"), ("v2", hostile)]
    pairs, bad = read_pairs(into, {"v1", "v2"})
    assert not bad
    assert (pairs[-1].query, pairs[-1].negatives) == (Side("text", hostile), (Side("video", "v1"), Side("text", "a dog")))
    assert (into / "videos.jsonl").read_bytes().startswith((data / "videos.jsonl").read_bytes())
    assert (into / "1.mp4").samefile(data / "1.mp4")
    assert not (into / "2.mp4").samefile(source / "2.mp4")
    assert (into / "2.mp4").read_text() == "bytes"


def test_the_same_source_adds_nothing_the_second_time(data: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "source", [video(2)], [{"query": "x", "target": "v2"}])
    once = merged(data, source).rename(tmp_path / "once")
    again = merged(once, source, source)
    assert [(again / name).read_bytes() for name in ("videos.jsonl", "pairs.jsonl")] == [
        (once / name).read_bytes() for name in ("videos.jsonl", "pairs.jsonl")
    ]


def test_every_conflict_is_reported_with_file_and_line(data: Path, tmp_path: Path) -> None:
    source = write(
        tmp_path / "source",
        [video(1, title="another"), {"video_id": "v2", "path": "gone.mp4"}, {"video_id": "v3", "path": "../data/1.mp4"}],
        [{"query": "a cat", "target": "v1", "relevance": 2}, {"query": "x", "target": {"video": "v9"}}, {"query": "y"}],
    )
    (source / "gone.mp4").unlink()
    message = error_of(data, source)
    assert "6 records" in message
    assert f'{source / "videos.jsonl"}:1: video "v1" has other texts or tags than {data / "videos.jsonl"}:1' in message
    assert f'{source / "videos.jsonl"}:2: there is no file "gone.mp4"' in message
    assert f"{source / 'videos.jsonl'}:3: the path" in message
    assert f"{source / 'pairs.jsonl'}:1: query and target are those of {data / 'pairs.jsonl'}:1" in message
    assert f'{source / "pairs.jsonl"}:2: target names video "v9"' in message
    assert f"{source / 'pairs.jsonl'}:3: there is no target" in message


def test_the_same_id_with_other_bytes_is_rejected_unless_replacing(data: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "source", [video(1, title="one")], content="other bytes")
    assert 'video "v1" has other bytes' in error_of(data, source)
    (tmp_path / "into").rmdir()
    into = merged(data, source, replacing=True)
    assert (into / "1.mp4").read_text() == "other bytes"
    assert (data / "1.mp4").read_text() == "bytes"
    assert len(read_videos(into)[0]) == 1


def test_two_sources_may_not_contradict_each_other_even_where_the_datas_records_are_replaced(data: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "first", [video(2, title="two")])
    second = write(tmp_path / "second", [video(2, title="zwei")])
    (tmp_path / "into").mkdir()
    with pytest.raises(DataError, match=r"second/videos\.jsonl:1: .* than .*first/videos\.jsonl:1; give one of them another id"):
        merge([first, second], data, tmp_path / "into", replacing=True)


def test_another_video_under_a_taken_file_name_is_rejected(data: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "source", [{"video_id": "v2", "path": "./1.mp4"}], content="other")
    assert 'the file "1.mp4" has other bytes' in error_of(data, source)


def test_a_file_of_records_is_never_a_video(data: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "source", [{"video_id": "v2", "path": "x.mp4"}])
    (source / "videos.jsonl").write_text('{"video_id": "v2", "path": "behaviour.jsonl"}\n')
    (source / "behaviour.jsonl").write_text("{}\n")
    assert "has the name of a file of records" in error_of(data, source)


def test_a_text_stays_a_text_when_a_video_of_that_name_is_added(data: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "source", [{"video_id": "cat", "path": "c.mp4"}])
    into = merged(data, source)
    pairs, _ = read_pairs(into, {"v1", "cat"})
    assert pairs[1].query == Side("text", "cat")


def test_a_file_of_json_lines_adds_videos_and_pairs(tmp_path: Path) -> None:
    (tmp_path / "2.mp4").write_text("x")
    source = tmp_path / "more.jsonl"
    source.write_text(f"{json.dumps({'query': 'x', 'target': 'v2'})}\n{json.dumps(video(2))}\n")
    into = merged(tmp_path / "data", source)
    assert read_pairs(into, {"v2"})[0][0].target == Side("video", "v2")
    with pytest.raises(DataError, match="expected a folder with"):
        merge([tmp_path / "nowhere"], tmp_path / "data", into)


def test_behaviour_tests_that_cannot_be_used_are_named(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    lines = ['{"kind": "minimum", "query": "a", "video": "v1"}', '{"kind": 5}', '{"\\ud800": 1}']
    lines += ['{"kind": "minimum", "query": "\\u200b", "video": "v1"}', '{"kind": "minimum", "query": "\\ud800", "video": "v1"}']
    (source / "behaviour.jsonl").write_text("\n".join(lines) + "\n")
    error = error_of(data, source)
    assert [f"behaviour.jsonl:{line}:" in error for line in range(1, 6)] == [False, True, True, True, True]


@pytest.mark.parametrize("name", [".dvcignore", ".git/config", "videos/.gitignore", "videos/.dvcignore"])
def test_a_file_that_git_or_dvc_reads_is_not_added(data: Path, tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    (source / name).parent.mkdir(parents=True)
    write(source, [{"video_id": "v2", "path": name}])
    assert "git or DVC reads" in error_of(data, source)
