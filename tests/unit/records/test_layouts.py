"""Each published layout, written by hand from its description."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reelnest.errors import DataError
from reelnest.records.importing import import_data
from tests.unit.records.layout_files import SUBRIP, clips, imported, skipped, targets, write_csv, write_json, write_lines


def msr_vtt(folder: Path) -> None:
    clips(folder, *(f"videos/video{number}.mp4" for number in range(5)))
    videos = [
        {"video_id": f"video{number}", "url": url, "split": split}
        for number, (url, split) in enumerate([("a", "train"), ("b", "validate"), ("c", "test"), ("c", "train"), ("d", "train")])
    ]
    sentences = [{"sen_id": number, "video_id": f"video{number % 5}", "caption": f"sentence {number}"} for number in range(10)]
    folder.mkdir(exist_ok=True)
    write_json(folder / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})


def test_msr_vtt_has_the_splits_of_its_json_file_without_clips_of_a_test_video(tmp_path: Path) -> None:
    msr_vtt(tmp_path / "source")
    result, pairs = imported("msr-vtt", tmp_path / "source", tmp_path)
    assert result.videos == 4
    assert sorted(pairs) == [
        ("sentence 0", "video0", "train"),
        ("sentence 1", "video1", "validation"),
        ("sentence 2", "video2", "test"),
        ("sentence 4", "video4", "train"),
        ("sentence 5", "video0", "train"),
        ("sentence 6", "video1", "validation"),
        ("sentence 7", "video2", "test"),
        ("sentence 9", "video4", "train"),
    ]
    assert skipped(result) == [("MSRVTT_data.json: videos", 4, "leakage")]  # of the same url as a test clip


@pytest.mark.parametrize("train", ["9k", "7k"])
def test_msr_vtt_has_the_splits_of_its_csv_files(tmp_path: Path, train: str) -> None:
    source = tmp_path / "source"
    msr_vtt(source)
    write_csv(source / f"MSRVTT_train.{train}.csv", ["video_id"], ["video0"], ["video1"])
    write_csv(source / "MSRVTT_JSFUSION_test.csv", ["key", "vid_key", "video_id", "sentence"], ["r0", "m2", "video2", "the only sentence"])
    result, pairs = imported("msr-vtt", source, tmp_path)
    assert [pair for pair in pairs if pair[2] == "test"] == [("the only sentence", "video2", "test")]
    assert {pair[1] for pair in pairs if pair[2] == "train"} == {"video0", "video1"}
    assert (result.videos, skipped(result)) == (3, [])


def test_what_is_wrong_in_msr_vtt_is_named_with_its_row(tmp_path: Path) -> None:
    source = tmp_path / "source"
    msr_vtt(source)
    data = json.loads((source / "MSRVTT_data.json").read_text())
    data["sentences"][3] = {"video_id": "video0"}
    data["videos"][1]["video_id"] = 7
    write_json(source / "MSRVTT_data.json", data)
    (source / "videos" / "video4.mp4").unlink()
    write_csv(source / "MSRVTT_JSFUSION_test.csv", ["video_id", "sentence"], ["video2", "a"], ["video9", "b"])
    result, _ = imported("msr-vtt", source, tmp_path)
    assert skipped(result)[:4] == [
        ("MSRVTT_data.json: sentences", 4, "wrong_layout"),
        ("MSRVTT_data.json: videos", 2, "wrong_layout"),
        ("MSRVTT_JSFUSION_test.csv", 3, "unknown_video"),
        ("MSRVTT_data.json: videos", 4, "leakage"),
    ]
    assert ("MSRVTT_data.json: videos", 5, "missing") in skipped(result)


def test_both_csv_files_of_msr_vtt_s_training_split_are_one_too_many(tmp_path: Path) -> None:
    msr_vtt(tmp_path / "source")
    for train in ("9k", "7k"):
        write_csv(tmp_path / "source" / f"MSRVTT_train.{train}.csv", ["video_id"], ["video0"])
    with pytest.raises(DataError, match="remove the one that you do not want"):
        import_data("msr-vtt", tmp_path / "source", tmp_path / "new")


def test_msvd_has_a_pair_for_each_sentence(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "one.avi", "two.avi")
    write_lines(source / "msvd_train.jsonl", [{"video_id": "one", "video": "one.avi", "caption": ["a cat", "an animal"]}])
    write_lines(source / "msvd_test.jsonl", [{"video_id": "two", "video": "two.avi", "caption": ["a dog"]}, {"video_id": "three"}])
    result, pairs = imported("msvd", source, tmp_path)
    assert pairs == [("a cat", "one", "train"), ("an animal", "one", "train"), ("a dog", "two", "test")]
    assert skipped(result) == [("msvd_test.jsonl", 2, "wrong_layout")]


def test_the_pickle_of_msvd_is_refused(tmp_path: Path) -> None:
    clips(tmp_path / "source", "raw-captions.pkl", "train_list.txt")
    with pytest.raises(DataError, match="could run code"):
        import_data("msvd", tmp_path / "source", tmp_path / "new")


def test_the_descriptions_of_a_didemo_video_are_joined(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "video/12_a.avi", "video/34_b.mov")
    write_json(
        source / "train_data.json",
        [
            {"description": "a dog runs", "times": [[0, 1]], "video": "12_a.avi"},
            {"description": "a red car", "times": [[0, 0]], "video": "34_b.mov"},
            {"description": "it barks ", "times": [[2, 3]], "video": "12_a.avi"},
            {"times": []},
        ],
    )
    write_json(source / "test_data.json", [{"description": "the car stops", "times": [[1, 1]], "video": "34_b.mov"}])
    result, pairs = imported("didemo", source, tmp_path)
    assert pairs == [("a dog runs it barks", "12_a", "train"), ("the car stops", "34_b", "test")]
    assert skipped(result) == [("train_data.json", 4, "wrong_layout"), ("train_data.json", 2, "leakage")]


def test_the_sentences_of_an_activitynet_video_are_joined(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "v_one.mp4", "v_two.mkv")
    write_json(
        source / "train.json", {"v_one": {"duration": 9.0, "timestamps": [[0, 4], [4, 9]], "sentences": ["A man sits. ", " He eats."]}}
    )
    write_json(source / "val_1.json", {"v_two": {"duration": 5.0, "timestamps": [[0, 5]], "sentences": ["A cat."]}, "v_three": {}})
    result, pairs = imported("activitynet", source, tmp_path)
    assert pairs == [("A man sits. He eats.", "v_one", "train"), ("A cat.", "v_two", "test")]
    assert skipped(result) == [("val_1.json", 2, "wrong_layout")]


def test_a_sentence_of_activitynet_is_paired_with_its_segment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "v_one.mp4", "v_two.mkv")
    one = {"duration": 9.02, "timestamps": [[0, 4.5], [4, 9.02], [5, 5]], "sentences": ["A man sits. ", " He eats.", "He nods."]}
    write_json(source / "train.json", {"v_one": one})
    two = {"duration": 5, "timestamps": [[1, 2]], "sentences": ["A cat.", "A dog."]}
    write_json(source / "val_1.json", {"v_one": {**one, "timestamps": [[0]] * 3}, "v_two": two, "v_three": {"sentences": []}})
    result, pairs = targets("activitynet-moments", source, tmp_path)
    assert pairs == [
        ("A man sits.", {"video": "v_one", "start": 0.0, "end": 4.5}, "train"),
        ("He eats.", {"video": "v_one", "start": 4.0}, "train"),
    ]
    assert skipped(result) == [*(("val_1.json", row, "wrong_layout") for row in (1, 2, 3)), ("train.json", 1, "bad_segment")]


def test_a_description_of_didemo_is_paired_with_the_segment_of_most_annotators(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "video/12_a.avi", "video/34_b.mov")
    write_json(
        source / "train_data.json",
        [
            {"description": "a dog runs", "times": [[0, 0], [1, 2], [1, 2], [0, 0]], "video": "12_a.avi", "num_segments": 6},
            {"description": "it barks ", "times": [[2, 5]], "video": "12_a.avi", "num_segments": 6},
            {"description": "it sleeps", "times": [], "video": "12_a.avi"},
            {"description": "it eats", "times": [[1]], "video": "12_a.avi"},
        ],
    )
    write_json(source / "test_data.json", [{"description": "the car stops", "times": [[4, 4]], "video": "34_b.mov", "num_segments": 5}])
    result, pairs = targets("didemo-moments", source, tmp_path)
    assert pairs == [
        ("a dog runs", {"video": "12_a", "start": 0.0, "end": 5.0}, "train"),
        ("it barks", {"video": "12_a", "start": 10.0}, "train"),
        ("the car stops", {"video": "34_b", "start": 20.0}, "test"),
    ]
    assert (result.videos, skipped(result)) == (2, [("train_data.json", 3, "wrong_layout"), ("train_data.json", 4, "wrong_layout")])


def test_vatex_has_captions_in_two_languages_and_no_clip_of_a_test_video_in_training(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "a_b_000001_000011.mp4", "a_b_000020_000030.mp4", "c_000001_000011.mp4")
    write_json(
        source / "vatex_training_v1.0.json",
        [
            {"videoID": "a_b_000001_000011", "enCap": ["first"], "chCap": []},
            {"videoID": "c_000001_000011", "enCap": ["second"], "chCap": ["第二"]},
        ],
    )
    write_json(source / "vatex_public_test.json", [{"videoID": "a_b_000020_000030", "enCap": ["third"]}])
    result, pairs = imported("vatex", source, tmp_path)
    assert pairs == [
        ("second", "c_000001_000011", "train"),
        ("第二", "c_000001_000011", "train"),
        ("third", "a_b_000020_000030", "test"),
    ]
    assert skipped(result) == [("vatex_training_v1.0.json", 1, "leakage")]


def test_a_query_of_qvhighlights_is_paired_with_its_clip(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "videos/x_60.0_210.0.mp4", "videos/y_0.0_150.0.mp4")
    entry = {"qid": 1, "query": "a street", "duration": 150, "vid": "x_60.0_210.0", "relevant_windows": [[0, 10]], "saliency_scores": [[1]]}
    write_lines(source / "highlight_train_release.jsonl", [entry, {**entry, "qid": 2, "query": "a market"}, {"qid": 3}])
    write_lines(source / "highlight_test_release.jsonl", [{"qid": 4, "query": "a beach", "duration": 150, "vid": "y_0.0_150.0"}])
    result, pairs = imported("qvhighlights", source, tmp_path)
    assert pairs == [
        ("a street", "x_60.0_210.0", "train"),
        ("a market", "x_60.0_210.0", "train"),
        ("a beach", "y_0.0_150.0", "test"),
    ]
    assert (result.videos, skipped(result)) == (2, [("highlight_train_release.jsonl", 3, "wrong_layout")])


def test_ms_swift_s_lines_give_a_pair_for_each_positive(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips(source, "v/a.mp4", "v/b.mp4")

    def message(content: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": content}]

    lines: list[dict[str, Any]] = [
        {
            "messages": message("a cat"),
            "positive_messages": [message("<video>")],
            "positive_videos": [["v/a.mp4"]],
            "negative_messages": [message("<video>"), message("no cat")],
            "negative_videos": [["v/b.mp4"], []],
        },
        {"messages": message("<video>"), "videos": ["v/b.mp4"], "positive_messages": [message("a dog")]},
        {"messages": message("<video> of a dog"), "videos": ["v/b.mp4"], "positive_messages": [message("x")]},
        {"messages": message("<video>"), "positive_messages": [message("x")]},
        {"messages": message("a bird"), "positive_messages": [message("<video>")], "positive_videos": [["../b.mp4"]]},
    ]
    write_lines(source / "train.jsonl", lines)
    result, pairs = imported("ms-swift", source / "train.jsonl", tmp_path)
    assert pairs == [("a cat", "v/a", None), ("v/b", "a dog", None)]
    first = json.loads((tmp_path / "first" / "pairs.jsonl").read_text().splitlines()[0])
    assert first["negatives"] == [{"video": "v/b"}, {"text": "no cat"}]
    assert [(row.origin.row, row.reason) for row in result.skipped] == [
        (3, "mixed_side"),
        (4, "wrong_layout"),
        (5, "unsafe_path"),
        (5, "bad_video"),
    ]


ROWS = [
    {"q": "a cat", "file": "a.mp4", "part": "train", "grade": "2", "name": "Cat"},
    {"q": "a dog", "file": "b", "part": "test", "grade": "", "name": ""},
    {"q": "an animal", "file": "a.mp4", "part": "train", "grade": "high", "name": "Cat"},
    {"q": "nothing", "file": "", "part": "train", "grade": "1", "name": ""},
]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_is_read_with_a_map_of_its_columns(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "source"
    clips(source, "clips/a.mp4", "clips/b.webm")
    table = source / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), table)
    elif suffix == "jsonl":
        write_lines(table, ROWS)
    else:
        with table.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, list(ROWS[0]), delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    columns = {"query": "q", "video": "file", "split": "part", "relevance": "grade", "title": "name"}
    write_json(source / "map.json", {"table": table.name, "videos": "clips", **columns})
    result, pairs = imported("table", source / "map.json", tmp_path)
    assert pairs == [("a cat", "a", "train"), ("a dog", "b", "test")]
    videos = [json.loads(line) for line in (tmp_path / "first" / "videos.jsonl").read_text().splitlines()]
    assert [(video["video_id"], video.get("title")) for video in videos] == [("a", "Cat"), ("b", None)]
    offset = 2 if suffix in ("csv", "tsv") else 1
    assert skipped(result) == [(table.name, 2 + offset, "bad_relevance"), (table.name, 3 + offset, "no_path")]


def test_videos_of_one_group_are_in_one_split(tmp_path: Path) -> None:
    source = tmp_path / "source"
    names = [f"{number}.mp4" for number in range(60)]
    clips(source, *names)
    write_csv(source / "rows.csv", ["text", "file", "show"], *([f"text {name}", name, f"show {at // 3}"] for at, name in enumerate(names)))
    write_json(source / "map.json", {"table": "rows.csv", "query": "text", "video": "file", "group": "show"})
    _, pairs = imported("table", source / "map.json", tmp_path)
    splits = [split for _, _, split in pairs]
    assert all(len(set(splits[at : at + 3])) == 1 for at in range(0, 60, 3))
    assert len(set(splits)) == 3


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_group_whose_rows_have_several_splits_is_in_the_first_one(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "source"
    clips(source, *(f"{name}.mp4" for name in "abcde"))
    columns = ["text", "file", "show", "part"]
    rows = [["x", "a", "s", "train"], ["y", "b", "s", "test"], ["z", "c", "s", ""], ["v", "d", "", "test"], ["w", "e", "t", "val"]]
    if suffix == "csv":
        write_csv(source / "rows.csv", columns, *rows)
    else:
        pq.write_table(pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows]), source / "rows.parquet")
    names = {"query": "text", "video": "file", "group": "show", "split": "part"}
    write_json(source / "map.json", {"table": f"rows.{suffix}", **names})
    result, pairs = imported("table", source / "map.json", tmp_path)
    assert pairs == [("x", "a", "train"), ("z", "c", "train"), ("v", "d", "test")]
    assert [row.reason for row in result.skipped] == ["leakage", "bad_split"]


@pytest.mark.parametrize(
    ("importer", "files", "message"),
    [
        ("msr-vtt", {}, "MSRVTT_data.json: there is no such file"),
        ("msr-vtt", {"MSRVTT_data.json": "[]"}, "expected an object"),
        ("msr-vtt", {"MSRVTT_data.json": "{"}, "not readable as JSON"),
        ("msvd", {}, "expected a folder with JSON lines, or lists in JSON, with train, val or test"),
        ("didemo", {}, "expected a folder with train_data.json"),
        ("didemo", {"train_data.json": "{}"}, "expected train_data.json"),
        ("activitynet", {}, "expected a folder with train.json and val_1.json"),
        ("vatex", {}, "expected a folder with JSON files"),
        ("qvhighlights", {}, "expected a folder with JSON lines"),
        ("ms-swift", {}, "expected a file of JSON lines"),
        ("mmeb", {"data.jsonl": "{}"}, "expected a folder with Parquet files, JSON lines or lists in JSON with train, val or test"),
        ("mmeb", {"test.parquet": "{}"}, "not readable as Parquet"),
        ("subtitles", {"a.srt": SUBRIP}, "expected a folder with video files"),
        ("webdataset", {"a.mp4": ""}, "expected an uncompressed tar file"),
        ("webdataset", {"a.tar": "not a tar file"}, "no row can be used.*not readable as an uncompressed tar file"),
    ],
)
def test_a_folder_of_another_layout_is_named(tmp_path: Path, importer: str, files: dict[str, str], message: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_text(content)
    with pytest.raises(DataError, match=message):
        import_data(importer, source, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"table": "rows.csv", "query": "q"}, "there is no video"),
        ({"table": "rows.csv", "query": "q", "video": "file", "colour": "c"}, "unknown key colour"),
        ({"table": "none.csv", "query": "q", "video": "file"}, "there is no such file"),
        ({"table": "../rows.csv", "query": "q", "video": "file"}, "contains"),
        ({"table": "rows.csv", "query": "question", "video": "file"}, "there is no column question; its columns are q, file"),
        ({"table": "rows.xlsx", "query": "q", "video": "file"}, "expected .csv, .tsv, .jsonl or .parquet"),
        ({"table": "rows.parquet", "query": "q", "video": "file"}, "not readable as Parquet"),
    ],
)
def test_a_map_that_does_not_fit_its_table_is_an_error(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    for suffix in ("csv", "xlsx", "parquet"):
        (tmp_path / f"rows.{suffix}").write_text("q,file\na,b\n")
    write_json(tmp_path / "map.json", columns)
    with pytest.raises(DataError, match=message):
        import_data("table", tmp_path / "map.json", tmp_path / "new")
