"""A folder of video files with their subtitles, `<name>.srt` or `<name>.vtt`, and search texts in `<name>.txt`, one a line.

A language may follow the name, as in `<name>.en.vtt`; the first in alphabetical order is used. What is said becomes the field `asr`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from reelnest.errors import DataError
from reelnest.records.captioned_clips import SUFFIXES
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairRow, Row, VideoRow

SUBTITLES, TEXTS = (".srt", ".vtt"), ".txt"
LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}([-_]\w+)?")
TIMES = re.compile(r"^\s*(\d+:)?\d+:\d+[.,]\d+\s+-->\s+(\d+:)?\d+:\d+[.,]\d+")
MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")
"""HTML and WebVTT tags, and the position codes of SubRip files."""


@IMPORTERS.register("subtitles")
def read_subtitles(source: Path) -> Iterator[Row]:
    """A folder of video files, each with its subtitles (.srt, .vtt) and its search texts (.txt) beside it."""
    files = sorted(source.rglob("*")) if source.is_dir() else []
    videos = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not videos:
        raise DataError(f"{source}: expected a folder with video files ({', '.join(SUFFIXES)}), and .srt, .vtt and .txt files beside them.")
    beside = _beside(files)
    for file in videos:
        video_id, name = file.relative_to(source).with_suffix("").as_posix(), file.relative_to(source).as_posix()
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
    """The lines of a text file, none if there is no file."""
    if file is None:
        return []
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        origin = Origin(file.relative_to(source).as_posix(), 1)
        return BadRow(origin, "wrong_encoding", f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")


def spoken_text(lines: list[str]) -> str:
    """The text of a SubRip or WebVTT file, without numbers, times, notes and markup.

    A line that repeats the one before it is dropped: subtitles that scroll show each line twice.
    """
    spoken: list[str] = []
    in_cue = False
    for line in lines:
        if TIMES.match(line):
            in_cue = True
        elif not line.strip():
            in_cue = False
        elif in_cue and (text := " ".join(MARKUP.sub("", line).split())) and text not in spoken[-1:]:
            spoken.append(text)
    return " ".join(spoken)


def _beside(files: Iterable[Path]) -> dict[Path, dict[str, Path]]:
    """For each name without suffix, the file of each suffix of SUBTITLES and TEXTS. One without a language comes first."""
    beside: dict[Path, dict[str, Path]] = defaultdict(dict)
    chosen = [file for file in files if file.suffix.lower() in (*SUBTITLES, TEXTS)]
    for file in chosen:
        beside[file.with_suffix("")][file.suffix.lower()] = file
    for file in chosen:
        if LANGUAGE.fullmatch(file.with_suffix("").suffix):
            beside[file.with_suffix("").with_suffix("")].setdefault(file.suffix.lower(), file)
    return beside
