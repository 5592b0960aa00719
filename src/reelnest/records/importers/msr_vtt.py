"""MSR-VTT: `MSRVTT_data.json`, or the two `…_videodatainfo.json` of its first release, and the CSV files of the 9k, 7k and 1k-A splits.

With `MSRVTT_JSFUSION_test.csv` (1k-A), its clips and sentences are the test split. With `MSRVTT_train.9k.csv` or `MSRVTT_train.7k.csv`, its
clips are the training split. Without them, the splits are those of the JSON files. Clips of one `url` are never in two splits.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from reelnest.errors import DataError
from reelnest.records.captioned_clips import Clip, clip_rows, each, field_of, numbered, read_clip_table, read_json
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, Row

DATA_FILE, TEST_FILE = "MSRVTT_data.json", "MSRVTT_JSFUSION_test.csv"
FIRST_RELEASE = ("train_val_videodatainfo.json", "test_videodatainfo.json")
TRAIN_FILES = ("MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv")
SPLITS = {"train": "train", "validate": "validation", "val": "validation", "test": "test"}


@IMPORTERS.register("msr-vtt")
def read_msr_vtt(source: Path) -> Iterator[Row]:
    """MSR-VTT: MSRVTT_data.json, and the CSV files of the 9k, 7k and 1k-A splits."""
    contents = {name: _content(source / name) for name in _data_files(source)}
    given = [source / name for name in TRAIN_FILES if (source / name).is_file()]
    if len(given) > 1:
        raise DataError(f"{source}: found {' and '.join(file.name for file in given)}; remove the one that you do not want.")
    in_train: set[str] = set()
    for row in read_clip_table(given[0], ["video_id"]) if given else ():
        if isinstance(row, BadRow):
            yield row
        else:
            in_train.update(row[1])
    in_test: dict[str, list[tuple[str, Origin]]] = defaultdict(list)
    has_test = (source / TEST_FILE).is_file()
    for row in read_clip_table(source / TEST_FILE, ["video_id", "sentence"]) if has_test else ():
        if isinstance(row, BadRow):
            yield row
        else:
            in_test[row[1][0]].append((row[1][1], row[0]))
    train, test = in_train if given else None, in_test if has_test else None

    captions: dict[str, list[tuple[str, Origin]]] = defaultdict(list)
    sentences = (entry for name, lists in contents.items() for entry in numbered(lists["sentences"], f"{name}: sentences"))
    for sentence in each(sentences, _caption):
        if isinstance(sentence, BadRow):
            yield sentence
        else:
            captions[sentence[0]].append(sentence[1:])

    clips: list[Clip] = []
    videos = (entry for name, lists in contents.items() for entry in numbered(lists["videos"], f"{name}: videos"))
    for video in each(videos, _video):
        if isinstance(video, BadRow):
            yield video
            continue
        split = _split(video.video_id, video.split, train, test)
        if split is not None:  # else in no file of a split
            texts = test if test is not None and split == "test" else captions
            clips.append(replace(video, split=split, captions=texts[video.video_id]))
        elif video.split is None:
            yield BadRow(video.origin, "bad_split", f"expected split with one of {', '.join(SPLITS)}", video.video_id)
    known = {clip.video_id for clip in clips}
    for video_id, pairs in (test or {}).items():
        if video_id not in known:
            yield BadRow(pairs[0][1], "unknown_video", f"{video_id} is not in {' or '.join(contents)}")
    yield from clip_rows(source, clips)


def _data_files(source: Path) -> list[str]:
    first_release = [name for name in FIRST_RELEASE if (source / name).is_file()]
    return first_release if first_release and not (source / DATA_FILE).exists() else [DATA_FILE]


def _content(file: Path) -> dict[str, list[Any]]:
    content = read_json(file, dict, 'an object with "videos" and "sentences"')
    if not all(isinstance(content.get(name), list) for name in ("videos", "sentences")):
        raise DataError(f'{file}: expected an object with the lists "videos" and "sentences".')
    return content


def _caption(origin: Origin, sentence: Any, _: str) -> tuple[str, str, Origin]:
    return field_of(sentence, "video_id", str), field_of(sentence, "caption", str), origin


def _video(origin: Origin, video: Any, _: str) -> Clip:
    """Returns a clip without captions, with its split in the JSON file."""
    video_id = field_of(video, "video_id", str)
    source = str(video["url"]) if video.get("url") else video_id
    return Clip(origin, video_id, video_id, [], SPLITS.get(str(video.get("split"))), source)


def _split(video_id: str, official: str | None, train: Collection[str] | None, test: Collection[str] | None) -> str | None:
    if test is not None and video_id in test:
        return "test"
    if train is not None and video_id in train:
        return "train"
    if test is None:
        return None if train is not None and official == "train" else official
    return official if train is None and official != "test" else None
