"""What most published layouts have in common: clips with captions, splits by file, and several clips of one source video."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from reelnest.errors import DataError, VideoError
from reelnest.messages import some_of
from reelnest.records.files.safe_paths import is_file, resolve
from reelnest.records.formats import SPLITS
from reelnest.records.importers.importer import BadRow, Origin, PairRow, Row, VideoRow
from reelnest.records.json_lines import RecordError, check_is_file, parse_record, read_lines, show, show_kind, unique_keys
from reelnest.records.splits import hashed_split, strictest_split
from reelnest.records.tables.batches import read_rows

T = TypeVar("T")
Entry = tuple[Origin, Any, str]
"""An entry of a file: its origin, its content, and the split of its file."""

SUFFIXES = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".ts"),
    *(".mpeg", ".mts", ".m2ts", ".wmv", ".asf", ".3gp", ".3g2", ".vob", ".ogv"),
)
FOLDERS = ("", "videos", "video", "all", "clips", "TrainValVideo", "TestVideo", "MSRVTT_Videos", "YouTubeClips")
"""Where video files are. The last ones are in the archives of MSR-VTT and MSVD."""
HELD_OUT = 0.1
"""Share of groups for validation, and for test, if the layout has no splits."""
SPLIT_WORDS = re.compile(
    r"""(?: (?<![A-Za-z]) | (?<=[a-z])(?=[A-Z]) )      # a word starts here, as in `my-train`, `my2train` and `myTrain`
    (?i: (?P<train> train(?:ing|set|list|val)? )
       | (?P<validation> val(?:id(?:ation|ate)?|set|list)? | eval(?:uation)? | dev(?:set|list)? )
       | (?P<test> test(?:ing|set|list)? ) )
    (?![a-z])""",
    re.VERBOSE,
)
"""The words that name a split. `retrieval` and `latest` are other words."""
CUT_FROM = re.compile(r"(.+)_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)", re.DOTALL)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moment:
    """A caption of a segment."""

    caption: Any
    """A text; `import_data` refuses anything else."""
    origin: Origin
    times: dict[str, float]
    """Its `start` and `end` in seconds; without an end, it ends with the clip."""


@dataclass(frozen=True)
class Clip:
    """One clip of a layout."""

    origin: Origin
    video_id: str
    name: str
    """Name of its file, with or without a suffix."""
    captions: Sequence[tuple[Any, Origin]]
    """Texts; `import_data` refuses anything else."""
    split: str | None = None
    source: str | None = None
    """The video that it was cut from. Clips of one source are never in two splits."""
    fields: dict[str, str] = field(default_factory=dict)
    """Text fields of the video."""
    moments: Sequence[Moment] = ()
    """Captions of segments of the clip."""


def clip_rows(folder: Path, clips: Iterable[Clip | BadRow]) -> Iterator[Row]:
    """Yields a video for each clip, and a pair for each caption and moment. Bad rows come first.

    If clips of one source are in several splits, those of the strictest split are used (test, then validation), and the others are skipped
    with the reason `leakage`. If clips have one id but other files, those of the first file are used. Clips without a split but with a
    source get the split of a digest of the source's name.
    """
    listed: list[Clip] = []
    for clip in clips:
        if isinstance(clip, BadRow):
            yield clip
        else:
            listed.append(clip)
    strictest: dict[str, str] = {}
    for clip in listed:
        if clip.source is not None:
            strictest[clip.source] = strictest_split((_split(clip), strictest.get(clip.source, "train")))
    names: dict[str, str] = {}
    for clip in listed:
        split = None if clip.split is None and clip.source is None else _split(clip)
        if clip.source is not None and split != strictest[clip.source]:
            detail = f"its source {show(clip.source)} is in the {strictest[clip.source]} split too; nothing to do: the clip is left out"
            yield BadRow(clip.origin, "leakage", detail, clip.video_id)
            continue
        if clip.video_id not in names:
            yield _video(folder, clip)
        elif clip.name != names[clip.video_id]:
            yield other_file(clip.origin, clip.video_id, clip.name, names[clip.video_id])
            continue
        names.setdefault(clip.video_id, clip.name)
        for moment in (*(Moment(caption, origin, {}) for caption, origin in clip.captions), *clip.moments):
            record = {"query": {"text": moment.caption}, "target": {"video": clip.video_id, **moment.times}}
            yield PairRow(moment.origin, record if split is None else {**record, "split": split})


def _split(clip: Clip) -> str:
    return clip.split if clip.split is not None else group_split(str(clip.source))


def group_split(group: str) -> str:
    """Returns the split of all clips of a group, by its name."""
    return hashed_split(group, HELD_OUT, HELD_OUT)


def _video(folder: Path, clip: Clip) -> VideoRow | BadRow:
    try:
        file = find_video(folder, clip.name)
    except VideoError as error:
        return BadRow(clip.origin, error.reason, str(error), clip.video_id)
    folders = PurePosixPath(clip.name).parent.parts  # names in two folders may be equal
    path = PurePosixPath("videos", *folders[folders[:1] == ("videos",) :], file.name).as_posix()
    return VideoRow(clip.origin, {"video_id": clip.video_id, "path": path, **clip.fields}, {path: file})


def other_file(origin: Origin, video_id: str, name: str, first: str) -> BadRow:
    """Returns the bad row for a video, and its texts, whose id is that of another file."""
    detail = f"video_id {show(video_id)} of {show(name)} is that of {show(first)}, which is used; give each file its own id"
    return BadRow(origin, "duplicate_id", detail)


def find_video(folder: Path, name: str) -> Path:
    """Returns the video file of this name, with any usual suffix, in the folder or a usual one inside.

    It may be missing. Raises VideoError.
    """
    bare = without_suffix(name)
    names = [name] if bare != name else [name, *_with_suffixes(bare)]
    names += _with_suffixes(Path(bare).name)
    # Names outside: most files have one of the first, in whatever folder, and there are dozens.
    places = (Path(inside, candidate) for candidate in dict.fromkeys(names) for inside in FOLDERS)
    place = next((place for place in places if is_file(folder / place)), None)
    if place is None:
        place = Path(next((inside for inside in FOLDERS[1:] if (folder / inside).is_dir()), ""), names[0] if bare != name else names[1])
    return resolve(str(place), folder)


def _with_suffixes(name: str) -> list[str]:
    return [f"{name}{suffix}" for lower in SUFFIXES for suffix in (lower, lower.upper())]


def without_suffix(name: str) -> str:
    """Returns the name of a video file without its suffix. What follows another dot is a part of the name, as in `clip_1.5_3.0`."""
    return name.removesuffix(Path(name).suffix) if Path(name).suffix.lower() in SUFFIXES else name


def each(entries: Iterable[Entry | BadRow], make: Callable[[Origin, Any, str], T]) -> Iterator[T | BadRow]:
    """Yields what `make` returns for each entry. An entry for which it raises RecordError is a bad row."""
    for entry in entries:
        if isinstance(entry, BadRow):
            yield entry
            continue
        try:
            yield make(*entry)
        except RecordError as error:
            yield BadRow(entry[0], error.reason, str(error))


def split_entries(folder: Path, suffixes: Sequence[str], layout: str) -> Iterator[Entry | BadRow]:
    """Yields the entries of the files of the three splits, by `train`, `val` or `test` in their names: JSON lines, or lists in JSON.

    The files are those with the first of `suffixes` that there is. Raises DataError if there are no such files.
    """
    files = [[file for file in folder.glob(f"*{suffix}") if is_file(file)] for suffix in suffixes] if folder.is_dir() else []
    splits = splits_of(next(filter(None, files), []), folder)
    if not splits:
        raise DataError(f"{folder}: expected a folder with {layout}.")
    for split, file in splits:
        yield from entries_of(file, split, layout)


def entries_of(file: Path, split: str, layout: str) -> Iterator[Entry | BadRow]:
    """Yields the entries of a file of JSON lines, or of a list in JSON. Raises DataError if there is no such list."""
    if file.suffix == ".jsonl":
        yield from (row if isinstance(row, BadRow) else (*row, split) for row in read_json_lines(file))
    else:
        yield from numbered(read_json(file, list, layout), file.name, split)


def splits_of(files: Iterable[Path], folder: Path) -> list[tuple[str, Path]]:
    """Returns the files with a split in their paths, relative to `folder`, with their splits, in this order.

    A warning names the other files.
    """
    named = [(split_of(file.relative_to(folder).as_posix()), file) for file in sorted(files)]
    if others := [file.relative_to(folder).as_posix() for split, file in named if split is None]:
        shown = some_of([show(name) for name in others])
        log.warning("%s: not used, because their names have no train, val or test: %s", folder, shown)
    return [(split, file) for name in SPLITS for split, file in named if split == name]


def split_of(path: str) -> str | None:
    """Returns the split that a file's name contains, or else the nearest of its folders that names one."""
    for name in reversed(path.split("/")):
        words = {word.lastgroup for word in SPLIT_WORDS.finditer(name)}
        if words:
            return next(split for split in SPLITS if split in words)
    return None


def numbered(entries: Iterable[Any], file: str, split: str = "") -> Iterator[Entry]:
    """Returns the entries of a list with their numbers."""
    return ((Origin(file, number), entry, split) for number, entry in enumerate(entries, start=1))


def read_json(file: Path, kind: type, layout: str) -> Any:
    """Returns the content of a JSON file. Raises DataError if it is no `kind`."""
    check_is_file(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{file}: there is no such file. Expected {layout}.") from None
    except RecordError as error:
        raise DataError(f"{file}: {error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not readable as JSON: {error}. Save it as UTF-8, or download it again.") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}). Check the file's permissions and the disk.") from error
    if not isinstance(content, kind):
        raise DataError(f"{file}: expected {layout}.")
    return content


def read_json_lines(file: Path) -> Iterator[tuple[Origin, dict[str, Any]] | BadRow]:
    """Yields the records of a file of JSON lines."""
    for line, raw in read_lines(file):
        origin = Origin(file.name, line)
        try:
            yield origin, parse_record(raw)
        except RecordError as error:
            yield BadRow(origin, error.reason, str(error))


def field_of(record: Any, name: str, kind: type[T]) -> T:
    """Returns a field of an entry. Raises RecordError if it is missing or no `kind`."""
    value = record.get(name) if isinstance(record, dict) else None
    if isinstance(value, kind):
        return value
    raise RecordError("wrong_layout", f"expected {name} with a {kind.__name__}; found {show(value, 60)}")


def texts(values: Sequence[Any], origin: Origin) -> list[tuple[Any, Origin]]:
    """Returns captions that came with a clip."""
    return [(value, origin) for value in values]


def joined(values: Sequence[Any], where: str) -> str:
    """Joins texts about one video into one. Raises RecordError if one of them is no text."""
    for at, value in enumerate(values):
        if not isinstance(value, str):
            raise RecordError("wrong_layout", f"{where}[{at}] is {show_kind(value)}; expected a text")
    return " ".join(value.strip() for value in values)


def read_clip_table(file: Path, columns: Sequence[str]) -> Iterator[tuple[Origin, list[str]] | BadRow]:
    """Returns the values of these columns in each row of a CSV file. Raises DataError as `read_rows` does."""
    entries = (row if isinstance(row, BadRow) else (*row, "") for row in read_rows(file, columns))
    return each(entries, lambda origin, row, _: (origin, [field_of(row, column, str) for column in columns]))


def segment_times(times: Any, duration: Any) -> dict[str, float]:
    """Returns the `start` and `end` of a pair's side. An end at the annotated `duration` is left out, because that is inexact.

    Raises RecordError if `times` is anything but two numbers.
    """
    if not (isinstance(times, list) and [isinstance(time, int | float) for time in times] == [True, True]):
        raise RecordError("wrong_layout", f"expected start and end in seconds; found {show(times, 60)}")
    start, end = times
    is_last = isinstance(duration, int | float) and end >= duration > start
    return {"start": start} if is_last else {"start": start, "end": end}


def youtube_id(clip: str) -> str:
    """Returns the video that a clip named `<id>_<start>_<end>` was cut from; a clip with another name is its own."""
    cut = CUT_FROM.fullmatch(clip)
    return cut[1] if cut is not None and float(cut[2]) < float(cut[3]) else clip
