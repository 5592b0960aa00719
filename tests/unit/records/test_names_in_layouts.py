"""How layouts name files, splits and clips: names as publishers and people really write them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reelnest.errors import DataError
from reelnest.records.captioned_clips import split_of, youtube_id
from reelnest.records.importing import import_data
from tests.unit.records.layout_files import clips, imported, skipped, write_json, write_lines


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("MSRVTT_train.9k.csv", "train"),
        ("trainval.json", "train"),
        ("myTrain2.json", "train"),
        ("VALIDATION.json", "validation"),
        ("val_1.json", "validation"),
        ("dev.jsonl", "validation"),
        ("eval-000.tar", "validation"),
        ("retrieval_test.json", "test"),
        ("test1k.parquet", "test"),
        ("train/test-000.tar", "test"),
        ("test_1k/latest/0000.parquet", "test"),
        ("latest.json", None),
        ("interval/constraints/contest.json", None),
    ],
)
def test_a_split_is_a_word_of_a_file_s_name_or_of_its_nearest_folder(path: str, split: str | None) -> None:
    assert split_of(path) == split


def test_files_without_a_split_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4", "b.mp4")
    write_json(folder / "train.json", [{"videoID": "a", "enCap": ["one"]}])
    write_json(folder / "part2.json", [{"videoID": "b", "enCap": ["two"]}])
    assert imported("vatex", folder, tmp_path)[1] == [("one", "a", "train")]
    assert 'not used, because their names have no train, val or test: "part2.json"' in caplog.text


def test_a_parquet_file_of_the_hub_has_its_split_in_the_name_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4")
    (folder / "default" / "test").mkdir(parents=True)
    pq.write_table(pa.table({"video_id": ["a"], "caption": ["one"]}), folder / "default" / "test" / "0000.parquet")
    assert imported("mmeb", folder, tmp_path)[1] == [("one", "a", "test")]


def test_a_file_is_found_by_its_exact_name_and_with_a_suffix_in_capital_letters(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.wmv", "videos/b.3gp", "videos/c.MOV", "d.strange")
    names = ["a.wmv", "b.3gp", "c.mov", "d.strange"]
    write_json(folder / "train_data.json", [{"video": name, "description": name, "times": [[0, 0]]} for name in names])
    result, pairs = imported("didemo", folder, tmp_path)
    assert ([pair[0] for pair in pairs], skipped(result)) == (names, [])


def test_a_number_at_the_end_of_a_clip_s_name_is_no_suffix(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "x_0.5_1.mp4")
    write_lines(folder / "train.jsonl", [{"vid": "x_0.5_1.5", "query": "another clip"}, {"vid": "x_0.5_1", "query": "this clip"}])
    result, pairs = imported("qvhighlights", folder, tmp_path)
    assert pairs == [("this clip", "x_0.5_1", "train")]
    assert skipped(result) == [("train.jsonl", 1, "missing"), ("train.jsonl", 1, "bad_video")]


def test_files_of_one_name_in_two_folders_are_two_videos(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "p1/1.mp4", "p2/1.mp4")
    rows = [{"video_id": f"clip{part}", "video": f"p{part}/1.mp4", "caption": [f"text {part}"]} for part in (1, 2)]
    write_lines(folder / "test.jsonl", rows)
    result, pairs = imported("msvd", folder, tmp_path)
    assert (pairs, skipped(result)) == ([("text 1", "clip1", "test"), ("text 2", "clip2", "test")], [])
    videos = [json.loads(line) for line in (tmp_path / "first" / "videos.jsonl").read_text().splitlines()]
    assert [(tmp_path / "first" / video["path"]).read_text() for video in videos] == ["p1/1.mp4", "p2/1.mp4"]


def test_the_source_of_a_clip_needs_a_start_and_an_end_in_its_name() -> None:
    assert [youtube_id(name) for name in ("a_b_000001_000011", "x_60.0_210.0")] == ["a_b", "x"]
    assert [youtube_id(name) for name in ("clip_1", "a_b_9_3", "video7")] == ["clip_1", "a_b_9_3", "video7"]


@pytest.mark.parametrize("layout", ["msvd", "mmeb"])
def test_clips_of_one_youtube_video_are_in_one_split(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "source"
    clips(folder, "-4wsuPCjDBc_5_15.avi", "-4wsuPCjDBc_20_30.avi", "other_1_2.avi")
    rows = [{"video_id": name, "video": f"{name}.avi", "caption": [name]} for name in ("-4wsuPCjDBc_5_15", "other_1_2")]
    write_lines(folder / "train.jsonl", rows)
    write_lines(folder / "test.jsonl", [{"video_id": "-4wsuPCjDBc_20_30", "video": "-4wsuPCjDBc_20_30.avi", "caption": ["test"]}])
    result, pairs = imported(layout, folder, tmp_path)
    assert pairs == [("other_1_2", "other_1_2", "train"), ("test", "-4wsuPCjDBc_20_30", "test")]
    assert skipped(result) == [("train.jsonl", 1, "leakage")]


def test_a_key_that_occurs_twice_in_a_json_file_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "v_a.mp4")
    (folder / "train.json").write_text('{"v_a": {"sentences": ["one"]}, "v_a": {"sentences": ["two"]}}')
    with pytest.raises(DataError, match=r'train\.json: the key "v_a" occurs twice in one object; keep one'):
        import_data("activitynet", folder, tmp_path / "new")


def test_a_missing_file_is_compared_with_the_names_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "videos/Clip.mp4", "videos/b.mp4")
    write_lines(folder / "test.jsonl", [{"video_id": name, "caption": [name]} for name in ("clip", "b", "sub\\b.mp4")])
    result, _ = imported("msvd", folder, tmp_path)
    details = [row.detail for row in result.skipped if row.reason == "missing"]
    assert 'did you mean "Clip.mp4"' in details[0]
    assert "separate folders with / instead of" in details[1]


def test_a_missing_file_is_looked_for_where_the_layout_has_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "caf\u00e9.mp4", "b.mp4")
    write_lines(folder / "test.jsonl", [{"video_id": name, "caption": [name]} for name in ("cafe\u0301", "b")])
    result, _ = imported("msvd", folder, tmp_path)
    assert f"{folder}/cafe\u0301.mp4; a file of this name exists in another Unicode form" in result.skipped[0].detail
