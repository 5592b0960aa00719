"""Files of other layouts with wrong types, encodings and names: a row is skipped with its reason, and never becomes another record."""

import json
import os
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reelnest.errors import DataError
from tests.unit.records.layout_files import clips, imported, skipped, write_json, write_lines


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def write_tar(file: Path, *members: tuple[str, bytes]) -> None:
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as opened:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, BytesIO(content))


def test_a_caption_that_is_no_text_is_skipped(tmp_path: Path) -> None:
    captions = ["good", None, 5, ["a"], {"en": "b"}]
    sources = {name: tmp_path / name for name in ("msvd", "vatex", "mmeb", "webdataset")}
    for folder in sources.values():
        clips(folder, "a.mp4")
    write_lines(sources["msvd"] / "train.jsonl", [{"video_id": "a", "caption": captions}])
    write_json(sources["vatex"] / "train.json", [{"videoID": "a", "enCap": captions}])
    write_lines(sources["mmeb"] / "train.jsonl", [{"video_id": "a", "video": "a.mp4", "caption": captions}])
    write_tar(sources["webdataset"] / "train.tar", ("a.mp4", b"a"), ("a.json", json.dumps({"caption": captions}).encode()))
    for name, folder in sources.items():
        result, pairs = imported(name, folder, tmp_path / f"{name}-new")
        assert pairs == [("good", "a", "train")], name
        assert result.reasons == {"wrong_type": 4}, name


def test_sentences_that_are_no_texts_are_not_joined(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "v_a.mp4", "v_b.mp4")
    write_json(folder / "train.json", {"v_a": {"sentences": ["one", None]}, "v_b": {"sentences": [" two", "three "]}})
    result, pairs = imported("activitynet", folder, tmp_path)
    assert pairs == [("two three", "v_b", "train")]
    assert skipped(result) == [("train.json", 1, "wrong_layout")]


@pytest.mark.parametrize("units", ['"6"', "[6]", "1" + "0" * 400, "NaN", "true"])
def test_units_of_didemo_that_are_no_numbers_are_skipped(tmp_path: Path, units: str) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4")
    good = '{"video": "a.mp4", "description": "good", "times": [[0, 1]]}'
    bad = [f'{{"video": "a.mp4", "description": "x", "times": [[0, 1]], "num_segments": {units}}}']
    bad += [f'{{"video": "a.mp4", "description": "x", "times": [[0, {units}]]}}']
    (folder / "train_data.json").write_text(f"[{', '.join([good, *bad])}]")
    result, pairs = imported("didemo-moments", folder, tmp_path)
    assert [pair[0] for pair in pairs] == ["good"]
    assert [row.origin.row for row in result.skipped] == [2, 3]


def test_the_csv_files_of_msr_vtt_may_have_short_rows_long_fields_and_another_encoding(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4", "b.mp4")
    videos = [{"video_id": name, "split": split} for name, split in (("a", "train"), ("b", "test"), ("c", "holdout"))]
    write_json(folder / "MSRVTT_data.json", {"videos": videos, "sentences": [{"video_id": "a", "caption": "one"}]})
    rows = ["key,video_id,sentence", "0", "1,b,café", "2,b", f"3,b,{'x' * 200_000}", "4,b,good"]
    (folder / "MSRVTT_JSFUSION_test.csv").write_bytes("\n".join(rows).encode("cp1252"))
    result, pairs = imported("msr-vtt", folder, tmp_path)
    assert [(query[:5], video) for query, video, _ in pairs] == [("one", "a"), ("xxxxx", "b"), ("good", "b")]
    assert [row.origin.row for row in result.skipped if row.origin.file == "MSRVTT_JSFUSION_test.csv"] == [2, 3, 4]
    assert result.reasons["bad_split"] == 1


def test_a_json_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4")
    (folder / "train.json").write_bytes(b'\xef\xbb\xbf[{"videoID": "a", "enCap": ["one"]}]')
    assert imported("vatex", folder, tmp_path)[1] == [("one", "a", "train")]


@pytest.mark.parametrize("layout", ["msr-vtt", "table"])
def test_a_folder_in_place_of_a_file_is_an_error(tmp_path: Path, layout: str) -> None:
    (tmp_path / "source" / "MSRVTT_data.json").mkdir(parents=True)
    with pytest.raises(DataError, match="expected a file, found a folder"):
        imported(layout, tmp_path / "source", tmp_path)


def test_names_that_the_system_refuses_are_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4")
    names = ["x" * 300, "nul\0", "\ud800", "", ".", "/", ".."]
    entries = [{"video_id": f"v{at}", "video": name, "caption": ["bad"]} for at, name in enumerate(names)]
    write_lines(folder / "train.jsonl", [*entries, {"video_id": "a", "caption": ["good"]}])
    assert imported("msvd", folder, tmp_path)[1] == [("good", "a", "train")]
    paths = [{"messages": user("bad"), "positive_messages": [user("<video>")], "positive_videos": [[name]]} for name in names]
    write_lines(folder / "rows.jsonl", [*paths, {"messages": user("good"), "positive_messages": [user("text")]}])
    assert imported("ms-swift", folder / "rows.jsonl", tmp_path / "swift")[1] == [("good", "text", None)]


def test_texts_of_an_id_that_another_file_has_are_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4", "a.webm", "b.mp4")
    write_lines(folder / "train.jsonl", [{"video_id": "a", "video": name, "caption": [name]} for name in ("a.mp4", "b.mp4")])
    result, pairs = imported("msvd", folder, tmp_path / "msvd")
    assert (pairs, skipped(result)) == ([("a.mp4", "a", "train")], [("train.jsonl", 2, "duplicate_id")])

    names = ["a.mp4", "a.webm", "./a.mp4"]
    rows = [{"messages": user(name), "positive_messages": [user("<video>")], "positive_videos": [[name]]} for name in names]
    write_lines(folder / "rows.jsonl", rows)
    result, pairs = imported("ms-swift", folder / "rows.jsonl", tmp_path / "swift")
    assert ([pair[0] for pair in pairs], skipped(result)) == (["a.mp4", "./a.mp4"], [("rows.jsonl", 2, "duplicate_id")])

    (folder / "a.txt").write_text("query\n")
    result, pairs = imported("subtitles", folder, tmp_path / "subtitles")
    assert (pairs, skipped(result)) == ([("query", "a", None)], [("a.webm", 1, "duplicate_id")])

    write_json(folder / "map.json", {"table": "log.csv", "query": "q", "item": "item", "impressions": "n", "clicks": "c"})
    (folder / "log.csv").write_text("q,item,n,c\none,a.mp4,100,50\ntwo,a.webm,100,50\nthree,a,100,50\n")
    result, pairs = imported("clicks", folder / "map.json", tmp_path / "clicks")
    assert ([pair[0] for pair in pairs], skipped(result)) == (["one", "three"], [("log.csv", 3, "duplicate_id")])


@pytest.mark.parametrize("layout", ["webdataset", "webdataset-shards"])
def test_a_key_of_two_samples_or_two_videos_is_used_once(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write_tar(folder / "train0.tar", ("1.mp4", b"A"), ("1.txt", b"first"), ("2.mp4", b"B"), ("2.webm", b"C"))
    write_tar(folder / "train1.tar", ("1.mp4", b"D"), ("1.txt", b"second"), ("3.mp4", b"E"), ("3.txt", b"third"))
    result, pairs = imported(layout, folder, tmp_path)
    assert pairs == [("first", "1", "train"), ("third", "3", "train")]
    assert skipped(result) == [("train0.tar", 2, "duplicate_id"), ("train1.tar", 1, "duplicate_id")]
    if layout == "webdataset":
        assert (tmp_path / "first" / "videos" / "2.mp4").read_bytes() == b"B"


def test_a_member_whose_name_no_file_can_have_costs_itself_alone(tmp_path: Path) -> None:
    keys = ["a", "x" * 300, "a.mp4/b", "c"]  # the third one needs a folder with the name of the first one's file
    write_tar(tmp_path / "train.tar", *((f"{key}{suffix}", key.encode()) for key in keys for suffix in (".mp4", ".txt")))
    result, pairs = imported("webdataset", tmp_path / "train.tar", tmp_path)
    assert pairs == [("a", "a", "train"), ("c", "c", "train")]
    assert [(row.origin.row, row.reason) for row in result.skipped] == [
        (2, "unusable_name"),
        (3, "unusable_name"),
        (2, "bad_video"),
        (3, "bad_video"),
    ]


def test_a_video_that_a_truncated_tar_file_ends_in_is_not_imported(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write_tar(folder / "train.tar", ("1.mp4", b"A"), ("1.txt", b"first"), ("2.txt", b"second"), ("2.mp4", bytes(200_000)))
    (folder / "train.tar").write_bytes((folder / "train.tar").read_bytes()[:100_000])
    result, pairs = imported("webdataset", folder, tmp_path)
    assert (result.videos, pairs) == (1, [("first", "1", "train")])
    assert sorted(result.reasons) == ["no_path", "truncated"]


@pytest.mark.parametrize("headers", [{"GNU.sparse.map": "1,x"}, {"size": "9" * 30}, {"size": "-1024"}])
@pytest.mark.parametrize("layout", ["webdataset", "webdataset-shards"])
def test_samples_before_an_invalid_header_of_a_tar_file_are_imported(tmp_path: Path, layout: str, headers: dict[str, str]) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    with tarfile.open(folder / "train.tar", "w", format=tarfile.PAX_FORMAT) as opened:
        for name in ("1.mp4", "2.mp4", "3.mp4"):
            member = tarfile.TarInfo(name)
            member.size = 1
            member.pax_headers = headers if name == "2.mp4" else {}
            opened.addfile(member, BytesIO(b"A"))
    result, _ = imported(layout, folder, tmp_path)
    assert result.videos == 1
    assert result.reasons["truncated"] >= 1


def test_names_that_are_no_text_are_listed_among_the_skipped_rows(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4")
    for suffix in (b".mp4", b".txt"):
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff" + suffix)).write_text("x\n")
    (folder / "a.txt").write_text("good\n")
    result, pairs = imported("subtitles", folder, tmp_path)
    assert (pairs, result.reasons) == ([("good", "a", None)], {"wrong_encoding": 2})
    files = [json.loads(line)["file"] for line in (tmp_path / "first" / "skipped.jsonl").read_text().splitlines()]
    assert files == ["\\udcff.mp4", "\\udcff.txt"]
    write_tar(tmp_path / "keys.tar", ("\xff.txt", b"A"), ("b.mp4", b"B"), ("b.txt", b"good"))
    assert imported("webdataset", tmp_path / "keys.tar", tmp_path / "keys")[1] == [("good", "b", None)]


def test_links_out_of_a_folder_of_subtitles_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4")
    (tmp_path / "secret").write_text("secret\n")
    (folder / "a.txt").symlink_to(tmp_path / "secret")
    (folder / "b.mp4").symlink_to(tmp_path / "secret")
    (folder / "c.srt").mkdir()
    os.mkfifo(folder / "a.srt")
    result, pairs = imported("subtitles", folder, tmp_path)
    assert (pairs, skipped(result)) == ([], [("a.txt", 1, "unsafe_path"), ("b.mp4", 1, "unsafe_path")])


@pytest.mark.parametrize(
    ("lines", "spoken"),
    [
        ("1\n00:00:01,000 --> 00:00:02,000\nHello\n2\n00:00:03,000 --> 00:00:04,000\n42\n", "Hello 42"),
        (
            "1\n00:00:01,000-->00:00:02,000\ntight\n\n2\n00:00:03 --> 00:00:04\nwhole\n\n3\n00:00:05:000 --> 00:00:06:000\ncolon\n",
            "tight whole colon",
        ),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\n<v Bob>R&amp;B &lt;3</v> AT&T 1 < 2 > 1 <00:00:01.500><c>x</c>\n", "R&B <3 AT&T 1 < 2 > 1 x"),
    ],
)
def test_subtitles_are_read_as_they_are_found(tmp_path: Path, lines: str, spoken: str) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4")
    (folder / "a.srt").write_text(lines)
    imported("subtitles", folder, tmp_path)
    assert json.loads((tmp_path / "first" / "videos.jsonl").read_text())["asr"] == spoken


def test_a_line_of_search_texts_ends_only_at_its_line_end(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4")
    (folder / "a.txt").write_bytes("one\u2028line\r\ntwo\x85\n".encode())
    assert [pair[0] for pair in imported("subtitles", folder, tmp_path)[1]] == ["one\u2028line", "two"]
    write_tar(tmp_path / "a.tar", ("a.mp4", b"a"), ("a.txt", (folder / "a.txt").read_bytes()))
    assert [pair[0] for pair in imported("webdataset", tmp_path / "a.tar", tmp_path / "tar")[1]] == ["one\u2028line", "two"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": user("alone")}, "wrong_layout"),
        ({"messages": user("query"), "positive_messages": [user("<image>")]}, "wrong_layout"),
        ({"messages": user("query"), "positive_messages": [user("no tag")], "positive_videos": [["a.mp4"]]}, "mixed_side"),
    ],
)
def test_a_line_of_ms_swift_that_is_no_pair_is_skipped(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    write_lines(tmp_path / "rows.jsonl", [row, {"messages": user("good"), "positive_messages": [user("text")]}])
    result, pairs = imported("ms-swift", tmp_path / "rows.jsonl", tmp_path)
    assert (pairs, skipped(result)) == ([("good", "text", None)], [("rows.jsonl", 1, reason)])


def test_an_id_of_mmeb_that_is_no_text_is_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    clips(folder, "a.mp4")
    columns = {"video_id": ["a", None], "video": ["a.mp4"] * 2, "caption": ["one", "two"]}
    pq.write_table(pa.table(columns), folder / "test.parquet")
    result, pairs = imported("mmeb", folder, tmp_path)
    assert (pairs, skipped(result)) == ([("one", "a", "test")], [("test.parquet", 2, "wrong_layout")])
