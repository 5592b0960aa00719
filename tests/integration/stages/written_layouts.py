"""Each importer's layout, written from its published description, for ten clips: six to train on, two for validation, two for test."""

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NUMBERS = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}
COLOURS = ("red", "green", "blue", "white", "black", "grey", "brown", "pink", "teal", "gold")

Write = Callable[[Path, list[Path]], Path]
"""Writes a layout with copies of the clips into a folder, and returns what the importer reads."""


def _copy(clips: Iterable[Path], folder: Path, names: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for clip, name in zip(clips, names, strict=True):
        shutil.copy(clip, folder / name)


def _caption(number: int) -> str:
    return f"a {COLOURS[number]} clip, the number {number}"


def _json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def _lines(file: Path, records: Iterable[Any]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def _csv(file: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([header, *rows])


def msr_vtt(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder / "videos", [f"video{number}.mp4" for number in range(10)])
    splits = {number: {"val": "validate"}.get(split, split) for split, numbers in NUMBERS.items() for number in numbers}
    videos = [
        {
            "id": number,
            "video_id": f"video{number}",
            "category": 1,
            "url": f"u{number}",
            "start time": 0,
            "end time": 1,
            "split": splits[number],
        }
        for number in range(10)
    ]
    sentences = [{"sen_id": number, "video_id": f"video{number}", "caption": _caption(number)} for number in range(10)]
    _json(folder / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    return folder


def msvd(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder, [f"clip{number}.mp4" for number in range(10)])
    for split, numbers in NUMBERS.items():
        records = [{"video_id": f"clip{n}", "video": f"clip{n}.mp4", "caption": [_caption(n), f"{_caption(n)} again"]} for n in numbers]
        _lines(folder / f"msvd_{split}.jsonl", records)
    return folder


def didemo(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder / "video", [f"{number}_a.mp4" for number in range(10)])
    for split, numbers in NUMBERS.items():
        units = {"times": [[0, 0]], "num_segments": 1}
        entries = [{"description": text, "video": f"{n}_a.mp4", **units} for n in numbers for text in (_caption(n), f"{_caption(n)} moves")]
        _json(folder / f"{split}_data.json", entries)
    return folder


def activitynet(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder, [f"v_{number}.mp4" for number in range(10)])
    for name, numbers in (("train", [*NUMBERS["train"], *NUMBERS["val"]]), ("val_1", NUMBERS["test"])):
        content = {
            f"v_{n}": {"duration": 0.4, "timestamps": [[0, 0.2], [0.2, 0.4]], "sentences": [_caption(n), " It ends."]} for n in numbers
        }
        _json(folder / f"{name}.json", content)
    return folder


def vatex(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder, [f"abc_{number}_000001_000011.mp4" for number in range(10)])
    for split, numbers in NUMBERS.items():
        entries = [{"videoID": f"abc_{n}_000001_000011", "enCap": [_caption(n)], "chCap": [f"{n} 号视频"]} for n in numbers]
        _json(folder / f"vatex_{split}.json", entries)
    return folder


def qvhighlights(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder / "videos", [f"y{number}_0.0_150.0.mp4" for number in range(10)])
    for split, numbers in NUMBERS.items():
        records: list[dict[str, Any]] = [{"qid": n, "query": _caption(n), "duration": 1, "vid": f"y{n}_0.0_150.0"} for n in numbers]
        shown = {"relevant_windows": [[0.1, 0.3]], "relevant_clip_ids": [0], "saliency_scores": [[1, 1, 1]]}
        _lines(
            folder / f"highlight_{split}_release.jsonl",
            [record if split == "test" else {**record, **shown} for record in records],
        )
    return folder


def ms_swift(folder: Path, clips: list[Path]) -> Path:
    names = [f"clip{number}.mp4" for number in range(10)]
    _copy(clips, folder / "videos", names)

    def message(content: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": content}]

    return _lines(
        folder / "train.jsonl",
        [
            {
                "messages": message(_caption(number)),
                "positive_messages": [message("<video>")],
                "positive_videos": [[f"videos/{name}"]],
                "negative_messages": [message("<video>")],
                "negative_videos": [[f"videos/{names[number - 1]}"]],
            }
            for number, name in enumerate(names)
        ],
    )


def earlier(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder, [f"clip{number}.mp4" for number in range(10)])
    _lines(folder / "video_meta.jsonl", [{"video_id": f"v{n}", "path": f"clip{n}.mp4", "title": f"clip {n}"} for n in range(10)])
    _lines(folder / "train_data.jsonl", [{"query": _caption(number), "target": f"v{number}"} for number in range(10)])
    return folder


def table(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder / "clips", [f"clip{number}.mp4" for number in range(10)])
    splits = {number: {"val": "validation"}.get(split, split) for split, numbers in NUMBERS.items() for number in numbers}
    rows = [[_caption(number), f"clip{number}.mp4", splits[number], 1 + number % 3] for number in range(10)]
    _csv(folder / "rows.csv", ["search", "file", "part", "grade"], rows)
    columns = {"query": "search", "video": "file", "split": "part", "relevance": "grade"}
    _json(folder / "map.json", {"table": "rows.csv", "videos": "clips", **columns})
    return folder / "map.json"


def clicks(folder: Path, clips: list[Path]) -> Path:
    """Sixty searches, each shown the same three clips in turning positions; the second is never clicked."""
    _copy(clips, folder / "clips", [f"clip{number}.mp4" for number in range(10)])
    rows = [
        {
            "q": f"{_caption(number % 10)}, search {number}",
            "item": f"clip{(number + at) % 10}",
            "rank": 1 + (at + turn) % 3,
            "click": at == 0 or (at == 2 and turn % 2 == 0),
            "who": f"user {turn} of {number}",
        }
        for number in range(60)
        for turn in range(12)
        for at in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "log.parquet")
    columns = {"query": "q", "item": "item", "position": "rank", "clicked": "click", "user": "who"}
    _json(folder / "map.json", {"table": "log.parquet", "videos": "clips", **columns})
    return folder / "map.json"


def mmeb(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder, [f"video{number}.mp4" for number in range(10)])
    for split, numbers in NUMBERS.items():
        rows = [{"video_id": f"video{n}", "video": f"video{n}.mp4", "caption": _caption(n), "url": f"u{n}"} for n in numbers]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    return folder


def subtitles(folder: Path, clips: list[Path]) -> Path:
    _copy(clips, folder, [f"clip{number}.mp4" for number in range(10)])
    for number in range(10):
        (folder / f"clip{number}.srt").write_text(f"1\n00:00:00,000 --> 00:00:01,000\nthis is number {number}\n")
        (folder / f"clip{number}.txt").write_text(f"{_caption(number)}\n")
    return folder


def webdataset(folder: Path, clips: list[Path]) -> Path:
    folder.mkdir()
    for split, numbers in NUMBERS.items():
        with tarfile.open(folder / f"{split}-000000.tar", "w") as shard:
            for number in numbers:
                shard.add(clips[number], f"{number:06}.mp4")
                content = json.dumps({"caption": _caption(number), "title": f"clip {number}"}).encode()
                member = tarfile.TarInfo(f"{number:06}.json")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    return folder


LAYOUTS: dict[str, Write] = {
    "activitynet": activitynet,
    "activitynet-moments": activitynet,
    "clicks": clicks,
    "didemo": didemo,
    "didemo-moments": didemo,
    "earlier": earlier,
    "mmeb": mmeb,
    "ms-swift": ms_swift,
    "msr-vtt": msr_vtt,
    "msvd": msvd,
    "qvhighlights": qvhighlights,
    "qvhighlights-moments": qvhighlights,
    "subtitles": subtitles,
    "table": table,
    "vatex": vatex,
    "webdataset": webdataset,
    "webdataset-shards": webdataset,
}
