"""Other forms in which the published layouts come: other releases, other kinds of files, and keys that few files have."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from reelnest.errors import DataError
from reelnest.records.importing import import_data
from tests.unit.records.layout_files import SUBRIP, clips, imported, skipped, targets, write_csv, write_json, write_lines


def write_tar(file: Path, *members: str) -> None:
    with tarfile.open(file, "w") as opened:
        for name in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            opened.addfile(entry, io.BytesIO(name.encode()))


def videos_of(folder: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "videos.jsonl").read_text().splitlines()]
    return {record["video_id"]: record for record in records}


def test_the_first_release_of_msr_vtt_has_two_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "TrainValVideo/video0.mp4", "TestVideo/video7010.mp4")
    for name, video_id, url, split in (("train_val", "video0", "a", "train"), ("test", "video7010", "b", "test")):
        content = {"videos": [{"video_id": video_id, "url": url, "split": split}], "sentences": [{"video_id": video_id, "caption": split}]}
        write_json(source / f"{name}_videodatainfo.json", {"info": {}, **content})
    _, pairs = imported("msr-vtt", source, tmp_path)
    assert pairs == [("train", "video0", "train"), ("test", "video7010", "test")]
    write_csv(source / "MSRVTT_JSFUSION_test.csv", ["video_id", "sentence"], ["video9", "unknown"])
    again = import_data("msr-vtt", source, tmp_path / "with_csv")
    assert [row.detail for row in again.skipped] == ["video9 is not in train_val_videodatainfo.json or test_videodatainfo.json"]


@pytest.mark.parametrize("layout", ["msvd", "mmeb"])
def test_sets_of_the_hub_are_read_from_lists_in_json(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "source"
    clips(source, "a.avi", "b.avi")
    write_json(source / "msvd_train.json", [{"video_id": "a", "video": "a.avi", "caption": ["one", "two"]}, {"video_id": "c"}])
    write_json(source / "msvd_test.json", [{"video_id": "b", "video": "b.avi", "caption": ["three"]}])
    result, pairs = imported(layout, source, tmp_path)
    assert pairs == [("one", "a", "train"), ("two", "a", "train"), ("three", "b", "test")]
    assert skipped(result) == [("msvd_train.json", 2, "wrong_layout")]


@pytest.mark.parametrize("layout", ["msvd", "mmeb"])
def test_a_description_in_json_beside_the_data_is_not_read(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "source"
    clips(source, "a.avi")
    write_lines(source / "test.jsonl", [{"video_id": "a", "video": "a.avi", "caption": ["one"]}])
    write_json(source / "test_info.json", {"version": 1})
    assert imported(layout, source, tmp_path)[1] == [("one", "a", "test")]


def test_the_label_of_ms_swift_s_pairwise_losses_is_the_relevance(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "a.mp4")

    def line(query: str, **label: Any) -> dict[str, Any]:
        positive = [[{"role": "user", "content": "<video>"}]]
        return {"messages": [{"role": "user", "content": query}], "positive_messages": positive, "positive_videos": [["a.mp4"]], **label}

    labels = [{"label": 0.8}, {"label": 0.0}, {}, {"label": 1}, {"label": -0.3}, {"label": "high"}, {"label": True}]
    write_lines(source / "train.jsonl", [line(f"query {number}", **label) for number, label in enumerate(labels, start=1)])
    result, _ = imported("ms-swift", source / "train.jsonl", tmp_path)
    records = [json.loads(record) for record in (tmp_path / "first" / "pairs.jsonl").read_text().splitlines()]
    assert [(record["query"]["text"], record.get("relevance", 1)) for record in records] == [
        ("query 1", 0.8),
        ("query 3", 1),
        ("query 4", 1),
    ]
    assert [(row.origin.row, row.reason) for row in result.skipped] == [
        (2, "not_relevant"),
        (5, "not_relevant"),
        (6, "bad_relevance"),
        (7, "bad_relevance"),
    ]


def test_a_query_of_qvhighlights_is_paired_with_each_of_its_windows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "source"
    names = ["x_60.0_210.0", "y_0.0_150.0", "z_0.0_150.0"]
    clips(source, *(f"videos/{name}.mp4" for name in names))
    first, second, third = ({"qid": number, "query": name, "duration": 150, "vid": name} for number, name in enumerate(names))
    write_lines(source / "highlight_train_release.jsonl", [{**first, "relevant_windows": [[0, 10], [140, 150]]}])
    write_lines(source / "highlight_val_release.jsonl", [{**second, "relevant_windows": [[2, 4]]}])
    write_lines(source / "highlight_test_release.jsonl", [third])
    result, pairs = targets("qvhighlights-moments", source, tmp_path)
    train = [({"video": names[0], "start": 0.0, "end": 10.0}, "train"), ({"video": names[0], "start": 140.0}, "train")]
    window = {"video": names[1], "start": 2.0, "end": 4.0}
    assert [pair[1:] for pair in pairs] == [*train, (window, "test")]
    assert skipped(result) == []
    assert "not used, because it has no relevant_windows: highlight_test_release.jsonl; val is the test split" in caplog.text
    write_lines(source / "highlight_test_release.jsonl", [third, {**third, "relevant_windows": [[5, 6]]}])
    again = import_data("qvhighlights-moments", source, tmp_path / "with_windows")
    assert skipped(again) == [("highlight_test_release.jsonl", 1, "wrong_layout")]
    records = [json.loads(line) for line in (tmp_path / "with_windows" / "pairs.jsonl").read_text().splitlines()]
    assert [record["split"] for record in records] == ["train", "train", "validation", "test"]


def test_a_subtitle_s_language_and_kind_follow_the_video_s_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "source"
    clips(source, "film.mkv", "both.mp4", "script.mp4")
    (source / "film.en.forced.srt").write_text(SUBRIP)
    (source / "both.en.forced.srt").write_text(SUBRIP.replace("Hello", "Foreign"))
    (source / "both.en.srt").write_text(SUBRIP)
    (source / "script.zh-Hans-CN.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\n你好\n")
    (source / "flim.srt").write_text(SUBRIP)
    imported("subtitles", source, tmp_path)
    spoken = {video_id: record.get("asr") for video_id, record in videos_of(tmp_path / "first").items()}
    assert spoken == {"both": "Hello there 42 times", "film": "Hello there 42 times", "script": "你好"}
    assert 'not used, because no video file has their name: "flim.srt"' in caplog.text


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar"])
def test_a_compressed_archive_is_named_as_such(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "plain.tar", "a.mp4", "a.txt")
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    with pytest.raises(DataError, match=rf"{name}, row 1: a compressed archive; unpack it to a \.tar file"):
        import_data("webdataset", tmp_path / name, tmp_path / "new")


def test_members_of_a_key_that_do_not_follow_each_other_are_reported(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", "a.mp4", "b.mp4", "a.txt")
    result = import_data("webdataset", tmp_path / "train.tar", tmp_path / "new")
    assert [(row.origin.row, row.reason) for row in result.skipped] == [(3, "no_path")]
    assert result.skipped[0].detail.endswith("the members of a key must follow each other")


@pytest.mark.parametrize("layout", ["activitynet", "didemo", "mmeb", "msr-vtt", "msvd", "qvhighlights", "vatex"])
def test_a_file_in_place_of_its_folder_is_named(tmp_path: Path, layout: str) -> None:
    write_json(tmp_path / "train.json", [])
    with pytest.raises(DataError, match=r"train\.json(: expected a folder with|/MSRVTT_data\.json: there is no such file)"):
        import_data(layout, tmp_path / "train.json", tmp_path / "new")
