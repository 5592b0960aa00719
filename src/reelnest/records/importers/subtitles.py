"""A folder of video files with their subtitles, `<name>.srt` or `<name>.vtt`, and search texts in `<name>.txt`, one a line.

A language and a kind may follow the name, as in `<name>.en.vtt` and `<name>.en.sdh.srt`: of the files with the fewest such words, the first
in alphabetical order is used. What is said becomes the field `asr`.
"""

import html
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

from reelnest.errors import DataError, VideoError
from reelnest.messages import some_of
from reelnest.records.captioned_clips import SUFFIXES, other_file
from reelnest.records.files.safe_paths import is_file, resolve
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairRow, Row, VideoRow
from reelnest.records.json_lines import show

SUBTITLES, TEXTS = (".srt", ".vtt"), ".txt"
LANGUAGE_OR_KIND = re.compile(r"\.([A-Za-z]{2,3}([-_]\w+)*|forced|default|captions)")
MOST_WORDS = 3
"""Languages and kinds between the name and the suffix."""
TIMES = re.compile(r"^\s*(\d+:)?\d+:\d+([.,:]\d+)?\s*-->\s*(\d+:)?\d+:\d+([.,:]\d+)?")
MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.,]+>|\{\\[^}]*\}")
"""HTML and WebVTT tags, and the position codes of SubRip files."""
ENTITY = re.compile(r"&(?:#\d+|#[xX][\da-fA-F]+|[A-Za-z]+);")

log = logging.getLogger(__name__)


@IMPORTERS.register("subtitles")
def read_subtitles(source: Path) -> Iterator[Row]:
    """A folder of video files, each with its subtitles (.srt, .vtt) and its search texts (.txt) beside it."""
    files = sorted(filter(is_file, source.rglob("*"))) if source.is_dir() else []
    videos = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not videos:
        raise DataError(f"{source}: expected a folder with video files ({', '.join(SUFFIXES)}), and .srt, .vtt and .txt files beside them.")
    beside = _beside(files)
    _warn_of_unused(files, videos, source)
    names: dict[str, str] = {}
    for file in videos:
        video_id, name = file.relative_to(source).with_suffix("").as_posix(), file.relative_to(source).as_posix()
        try:
            resolve(name, source)
        except VideoError as error:
            yield BadRow(Origin(name, 1), error.reason, str(error), video_id)
            continue
        if names.setdefault(video_id, name) != name:
            yield other_file(Origin(name, 1), video_id, name, names[video_id])
            continue
        record = {"video_id": video_id, "path": name}
        others = beside.get(file.with_suffix(""), {})
        subtitles = next((others[suffix] for suffix in SUBTITLES if suffix in others), None)
        lines = _lines(subtitles, source)
        if isinstance(lines, BadRow):
            yield lines
        elif spoken := spoken_text(lines):
            record["asr"] = spoken
        yield VideoRow(Origin(name, 1), record, {name: file})
        lines = _lines(others.get(TEXTS), source)
        if isinstance(lines, BadRow):
            yield lines
            continue
        for number, line in enumerate(lines, start=1):
            if line.strip():
                origin = Origin(others[TEXTS].relative_to(source).as_posix(), number)
                yield PairRow(origin, {"query": {"text": line.strip()}, "target": {"video": video_id}})


def _lines(file: Path | None, source: Path) -> list[str] | BadRow:
    """Returns the lines of a text file, none if there is no file."""
    if file is None:
        return []
    name = file.relative_to(source).as_posix()
    origin = Origin(name, 1)
    try:
        return resolve(name, source).read_text(encoding="utf-8-sig").split("\n")
    except VideoError as error:
        return BadRow(origin, error.reason, str(error))
    except OSError as error:
        return BadRow(origin, "unreadable", f"cannot be read ({error.strerror}); change its permissions")
    except UnicodeDecodeError as error:
        return BadRow(origin, "wrong_encoding", f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")


def spoken_text(lines: list[str]) -> str:
    """Returns the text of a SubRip or WebVTT file, without numbers, times, notes and markup.

    A line that repeats the one before it is dropped: subtitles that scroll show each line twice. The number of a cue is recognised without
    an empty line before it.
    """
    spoken: list[str] = []
    in_cue = False
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        if TIMES.match(line):
            in_cue = True
        elif not line.strip():
            in_cue = False
        elif in_cue and not (line.strip().isdecimal() and TIMES.match(following)):
            text = " ".join(ENTITY.sub(lambda entity: html.unescape(entity[0]), MARKUP.sub("", line)).split())
            if text and text not in spoken[-1:]:
                spoken.append(text)
    return " ".join(spoken)


def _beside(files: Iterable[Path]) -> dict[Path, dict[str, Path]]:
    """Returns the file of each suffix of SUBTITLES and TEXTS, by name without suffix: the one with the fewest words after its name."""
    beside: dict[Path, dict[str, Path]] = defaultdict(dict)
    named = [(file, _names(file)) for file in files if file.suffix.lower() in (*SUBTITLES, TEXTS)]
    for words in range(MOST_WORDS + 1):
        for file, names in named:
            if words < len(names):
                beside[names[words]].setdefault(file.suffix.lower(), file)
    return beside


def _names(file: Path) -> list[Path]:
    """Returns the file without its suffix, and then without the last one, two and more languages or kinds."""
    names = [file.with_suffix("")]
    while len(names) <= MOST_WORDS and LANGUAGE_OR_KIND.fullmatch(names[-1].suffix):
        names.append(names[-1].with_suffix(""))
    return names


def _warn_of_unused(files: Iterable[Path], videos: Iterable[Path], source: Path) -> None:
    known = {video.with_suffix("") for video in videos}
    unused = [
        file.relative_to(source).as_posix()
        for file in files
        if file.suffix.lower() in (*SUBTITLES, TEXTS) and known.isdisjoint(_names(file))
    ]
    if unused:
        log.warning("%s: not used, because no video file has their name: %s", source, some_of([show(name) for name in unused]))
