"""Strict readers for the two files that a team provides, `videos.jsonl` and `pairs.jsonl`.

A bad line does not stop reading. It becomes a BadRecord with its file, line number, a stable reason word, and a text with the expected
content and advice. A key with the value null counts as absent.
"""

import functools
import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from reelnest.atomic_files import write_lines
from reelnest.errors import DataError, VideoError
from reelnest.records.files.safe_paths import check_inside, regular_file
from reelnest.records.json_lines import (
    RecordError,
    advise_on_id,
    check_keys,
    check_string,
    check_text,
    is_blank,
    is_encodable,
    parse_record,
    read_lines,
    show,
    show_kind,
)
from reelnest.records.segments import SEGMENT_KEYS, Segment, parse_segment

Kind = Literal["text", "video"]

SPLITS = ("train", "validation", "test")
TEXT_FIELDS = ("title", "caption", "text", "ocr", "asr")
VIDEOS_FILE = "videos.jsonl"
PAIRS_FILE = "pairs.jsonl"

VIDEO_KEYS = ("video_id", "path", "images", *SEGMENT_KEYS, *TEXT_FIELDS, "tags")
PAIR_KEYS = ("query", "target", "relevance", "split", "negatives")
SIDE_KEYS = ("text", "video", *SEGMENT_KEYS)
LONGEST_ID = 1000
SHARED_SIDES = 1 << 17
MOST_TAGS, MOST_IMAGES, MOST_NEGATIVES = 100, 100_000, 10_000
SMALLEST_RELEVANCE, LARGEST_RELEVANCE = 1e-6, 1e6
A_SIDE = '{"text": …} or {"video": video_id}'
A_RELEVANCE = (
    f"a number from {SMALLEST_RELEVANCE:f} to {LARGEST_RELEVANCE:,.0f} (list irrelevant items under negatives), or remove it for 1"
)
A_SEGMENT = '{"video": video_id, "start": seconds, "end": seconds}'


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair, or one of its negatives."""

    kind: Kind
    value: str
    """The text itself, or the video_id. A segment's is its video's, followed by `Segment.fragment`."""
    segment: Segment | None = field(default=None, compare=False)
    """The times on this side, if it names a part of the video."""

    @property
    def source(self) -> str:
        """The video_id without the segment's times."""
        return self.value if self.segment is None else self.value.removesuffix(self.segment.fragment)

    @property
    def record(self) -> dict[str, Any]:
        """The side as in `pairs.jsonl`."""
        return {self.kind: self.source} | ({} if self.segment is None else self.segment.record)


@dataclass(frozen=True, slots=True)
class Pair:
    """A line of `pairs.jsonl`."""

    query: Side
    target: Side
    relevance: float
    """Grade of the target for the query, above 0; 1 by default."""
    split: str | None
    """The split on the line; None if `splits.assign_splits` chooses it."""
    negatives: tuple[Side, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Video:
    """A line of `videos.jsonl`: a video file, or a video's frames as images."""

    video_id: str
    path: str | None
    images: tuple[str, ...]
    fields: dict[str, str]
    """The non-blank text fields, in the order of TEXT_FIELDS."""
    line: int
    tags: dict[str, str] = field(default_factory=dict)
    """Metadata such as a language. The encoder never reads it; evaluation can group queries by it."""
    segment: Segment | None = None
    """The part of the file that is the video; None for the whole file."""

    @property
    def source(self) -> str:
        """The id of the video of which `cut` made this one; its own id if it was not cut."""
        return self.video_id if self.segment is None else self.video_id.removesuffix(self.segment.fragment)

    def cut(self, segment: Segment) -> "Video":
        """Returns the segment as a video with an id of its own and the texts of this one."""
        return replace(self, video_id=f"{self.video_id}{segment.fragment}", segment=segment)


def pair_kind(query: Kind, target: Kind) -> str:
    """Returns the kind of a pair, such as `text_to_video`."""
    return f"{query}_to_{target}"


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A line that is skipped."""

    file: str
    line: int
    reason: str
    """A short stable word, used to count bad lines."""
    detail: str
    """The problem, the expected content, and advice."""
    video_id: str | None = None


def read_videos(folder: Path) -> tuple[list[Video], list[BadRecord]]:
    """Reads `folder/videos.jsonl`. The first good line of each video_id is used. Raises DataError if there is no such file."""
    videos: list[Video] = []
    first_lines: dict[str, int] = {}

    def read(record: dict[str, Any], line: int) -> None:
        video = parse_video(record, folder, line)
        if video.video_id in first_lines:
            first = f"line {first_lines[video.video_id]}, which is used"
            raise RecordError("duplicate_id", f"video_id {show(video.video_id)} is already on {first}; give each video a unique id")
        first_lines[video.video_id] = line
        videos.append(video)

    return videos, read_records(folder, VIDEOS_FILE, read)


def read_pairs(folder: Path, video_ids: Collection[str]) -> tuple[list[Pair], list[BadRecord]]:
    """Reads `folder/pairs.jsonl`.

    A bare string is a video if it is in `video_ids`, else a text. So `video_ids` should include the ids of bad lines (`known_ids`).
    Raises DataError if there is no such file.
    """
    known = frozenset(video_ids)
    pairs: list[Pair] = []
    return pairs, read_records(folder, PAIRS_FILE, lambda record, line: pairs.append(parse_pair(record, known, line)))


def known_ids(videos: Collection[Video], bad: Collection[BadRecord]) -> frozenset[str]:
    """Returns all ids in `videos.jsonl`, on good lines and on bad ones."""
    return frozenset([video.video_id for video in videos] + [record.video_id for record in bad if record.video_id is not None])


def video_files(video: Video, folder: Path) -> list[Path]:
    """Returns the resolved path of the video's file, or of its frame files in order.

    Raises VideoError as `regular_file` does.
    """
    names = [video.path] if video.path is not None else list(video.images)
    return [regular_file(name, folder) for name in names]


def file_names(video: Video) -> list[str]:
    """Returns the normalised paths of the video's files, relative to the data folder."""
    names = video.images if video.path is None else (video.path,)
    return [PurePosixPath(name).as_posix() for name in names]


def read_quarantine(path: Path) -> set[tuple[str, int]]:
    """Returns the (file, line) of every record to skip. Raises DataError if validation has not run."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Run `reelnest validate` first: it lists the records to skip.") from None
    try:
        records = [json.loads(line) for line in lines if line]
        return {(str(record["file"]), int(record["line"])) for record in records}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a quarantine file ({error!r}). Run `reelnest validate` to recreate it.") from None


def write_quarantine(path: Path, bad: Collection[BadRecord]) -> None:
    """Writes one JSON object per bad record, ordered by file and line, atomically."""
    ordered = sorted(bad, key=lambda record: (record.file, record.line, record.reason, record.detail))
    write_lines(path, (_quarantine_line(record) for record in ordered))


def _quarantine_line(record: BadRecord) -> str:
    entry: dict[str, Any] = {"file": record.file, "line": record.line, "reason": record.reason, "detail": record.detail}
    if record.video_id is not None:
        entry["video_id"] = record.video_id
    return json.dumps(entry, ensure_ascii=False)


def check_data_files(folder: Path, *names: str) -> None:
    """Raises DataError if `folder` lacks one of the files `names`, by default of all files that a data folder must have."""
    advice = "See “Your own data” in README.md for the required files, or run `reelnest sample` to make the sample data."
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; expected one with {VIDEOS_FILE} and {PAIRS_FILE}. {advice}")
    for name in names or (VIDEOS_FILE, PAIRS_FILE):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: there is no such file. {advice}")


def read_records(folder: Path, name: str, read: Callable[[dict[str, Any], int], None]) -> list[BadRecord]:
    """Calls `read` with each record of `folder/name` and its line. Returns the records that the parser or `read` rejects by RecordError.

    Raises DataError if there is no such file.
    """
    check_data_files(folder, name)
    bad: list[BadRecord] = []
    for line, raw in read_lines(folder / name):
        record: dict[str, Any] = {}
        try:
            record = parse_record(raw)
            read(record, line)
        except RecordError as error:
            video_id = record.get("video_id")
            usable = isinstance(video_id, str) and 0 < len(video_id.strip()) <= LONGEST_ID and is_encodable(video_id)
            bad.append(BadRecord(name, line, error.reason, str(error), video_id if usable else None))
    return bad


def parse_video(record: dict[str, Any], folder: Path, line: int) -> Video:
    """Parses a record of `videos.jsonl` whose paths must be inside `folder`. Raises RecordError."""
    video_id = check_text(record["video_id"], "video_id") if "video_id" in record else ""
    if is_blank(video_id):
        state = "empty" if "video_id" in record else "missing"
        raise RecordError("missing_id", f"video_id is {state}; give the video a unique id")
    _check_count("id_too_long", "video_id", len(video_id), LONGEST_ID, "characters")
    check_keys(record, VIDEO_KEYS)
    path, images = record.get("path"), record.get("images")
    if path is not None and images is not None:
        raise RecordError("path_and_images", "found both path and images; expected one of them: remove the other")
    if path is None and images is None:
        raise RecordError("no_path", "found neither path nor images; expected path (a video file) or images (a list of frame files)")
    if images is not None and (not isinstance(images, list) or not images):
        raise RecordError("wrong_type", f"images is {show_kind(images)}; expected a list of at least one frame file")
    _check_count("too_many_images", "images", len(images or ()), MOST_IMAGES, "files")
    frames = tuple(check_string(image, f"images[{at}]") for at, image in enumerate(images or []))
    for name in frames if path is None else [check_string(path, "path")]:
        try:
            check_inside(name, folder)
        except VideoError as error:
            raise RecordError(error.reason, str(error)) from None
    fields = {name: check_text(record[name], name) for name in TEXT_FIELDS if name in record}
    seen = {name: text for name, text in fields.items() if not is_blank(text)}
    segment = parse_segment(record)
    if segment is not None and path is None:
        raise RecordError("bad_segment", "found start or end with images; they need a path: list only the segment's images instead")
    return Video(video_id, path, frames, seen, line, _tags(record.get("tags", {})), segment)


def _check_count(reason: str, where: str, count: int, most: int, what: str) -> None:
    if count > most:
        raise RecordError(reason, f"{where} has {count} {what}; at most {most} are allowed")


def _tags(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise RecordError("wrong_type", f'tags is {show_kind(value)}; expected an object of strings, such as {{"language": "en"}}')
    if clash := sorted(set(value) & {*TEXT_FIELDS, "video_id"}):
        raise RecordError("unknown_key", f"found the key {show('tags.' + clash[0])}, which is another field's name; rename the tag")
    _check_count("too_many_tags", "tags", len(value), MOST_TAGS, "tags")
    tags = {check_text(name, "the name of a tag"): check_text(tag, f"tags.{name[:60]}") for name, tag in value.items()}
    _check_count("tag_too_long", "a tag", max(map(len, (*tags, *tags.values())), default=0), LONGEST_ID, "characters")
    return tags


def parse_pair(record: dict[str, Any], video_ids: Collection[str], line: int) -> Pair:
    """Parses a record of `pairs.jsonl`. A bare string in `video_ids` is a video, any other a text. Raises RecordError."""
    check_keys(record, PAIR_KEYS)
    for key in ("query", "target"):
        if key not in record:
            raise RecordError(f"missing_{key}", f"there is no {key}; expected {A_SIDE}, or a string")
    query = _side(record["query"], "query", video_ids)
    target = _side(record["target"], "target", video_ids)
    if query == target:
        raise RecordError("self_pair", f"query and target are the same {query.kind}; a pair needs two different sides")
    listed = record.get("negatives", [])
    if not isinstance(listed, list):
        raise RecordError("wrong_type", f"negatives is {show_kind(listed)}; expected a list of sides")
    _check_count("too_many_negatives", "negatives", len(listed), MOST_NEGATIVES, "sides")
    negatives = tuple(dict.fromkeys(_side(value, f"negatives[{at}]", video_ids) for at, value in enumerate(listed)))
    if query in negatives or target in negatives:
        also = "target" if target in negatives else "query"
        raise RecordError("contradictory_negative", f"negatives contains the {also} of the same pair; remove it there")
    return Pair(query, target, _relevance(record.get("relevance", 1)), _split(record.get("split")), negatives, line)


def _side(value: Any, where: str, video_ids: Collection[str]) -> Side:
    if isinstance(value, str):
        value = {"video": value} if value in video_ids else {"text": value}
    if not isinstance(value, dict):
        raise RecordError("wrong_type", f"{where} is {show_kind(value)}; expected {A_SIDE}, or a string")
    check_keys(value, SIDE_KEYS, f"{where}.")
    if ("text" in value) == ("video" in value):
        raise RecordError(
            "wrong_side", f"{where} has {'both text and video' if 'text' in value else 'neither text nor video'}; expected {A_SIDE}"
        )
    if "text" in value:
        text = check_text(value["text"], f"{where}.text")
        if is_blank(text):
            advice = "write a search text, or remove the line"
            raise RecordError("empty_text", f"{where} is an empty text, without a visible character; {advice}")
        if len(value) > 1:
            raise RecordError("wrong_side", f"{where} has times with a text; expected {A_SEGMENT}, or the text alone")
        return Side("text", text)
    video_id = check_string(value["video"], f"{where}.video")
    if video_id not in video_ids:
        raise RecordError(
            "unknown_video", f"{where} names video {show(video_id)}, not in {VIDEOS_FILE}; {advise_on_id(video_id, video_ids)}"
        )
    return _video_side(video_id, parse_segment(value, f"{where}."))


@functools.lru_cache(SHARED_SIDES)
def _video_side(video_id: str, segment: Segment | None) -> Side:
    # One object for all pairs of a video.
    return Side("video", video_id if segment is None else f"{video_id}{segment.fragment}", segment)


def _relevance(value: Any) -> float:
    # In Python a bool is an int, but "relevance": true is a mistake.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError("bad_relevance", f"relevance is {show_kind(value)}; expected {A_RELEVANCE}")
    try:
        grade = float(value)
    except OverflowError:
        grade = math.inf
    if not SMALLEST_RELEVANCE <= grade <= LARGEST_RELEVANCE:
        raise RecordError("bad_relevance", f"relevance is {grade:g}; expected {A_RELEVANCE}")
    return grade


def _split(value: Any) -> str | None:
    if value is not None and value not in SPLITS:
        raise RecordError("bad_split", f"split is {show(value)}; expected {', '.join(SPLITS)}, or remove it")
    return value
