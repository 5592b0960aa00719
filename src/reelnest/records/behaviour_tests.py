"""Behaviour tests of a model: `behaviour.jsonl` in the data folder, which a team writes and extends.

Three kinds (after Ribeiro et al. 2020, Beyond accuracy: behavioral testing of NLP models with CheckList, https://arxiv.org/abs/2005.04118):

invariance   {"kind": "invariance", "query": "a red hoop", "same_as": "a crimson ring"}: a paraphrase returns the same videos
direction    {"kind": "direction", "query": "a ball rolls left", "video": "v1", "above": "v2"}: v1 ranks above v2
minimum      {"kind": "minimum", "query": "a red ball", "video": "v1"}: the obvious query returns the obvious video

`video` and `above` may be lists, of which the highest ranked video counts. `top` (default 10) is the number of results to check. `shared`
(default half of `top`) is the minimum number of results that both queries of an invariance test have in common.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from reelnest.atomic_files import write_lines
from reelnest.errors import DataError
from reelnest.records.formats import VIDEOS_FILE, BadRecord, read_records
from reelnest.records.json_lines import RecordError, check_keys, check_string, check_text, is_blank, show, show_kind

Kind = Literal["invariance", "direction", "minimum"]

BEHAVIOUR_FILE = "behaviour.jsonl"
"""File name in `data/`. Validation writes the usable tests to `reports/` under the same name, where the evaluation reads them."""
KINDS: tuple[Kind, ...] = get_args(Kind)
KEYS: Mapping[Kind, tuple[str, ...]] = {
    "invariance": ("kind", "query", "same_as", "top", "shared"),
    "direction": ("kind", "query", "video", "above"),
    "minimum": ("kind", "query", "video", "top"),
}
TOP = 10


@dataclass(frozen=True)
class BehaviourTest:
    """A line of `behaviour.jsonl`. Fields that its kind does not use are empty, or 0."""

    kind: Kind
    query: str
    same_as: str
    video: tuple[str, ...]
    """Ids of relevant videos, of which the highest ranked counts."""
    above: tuple[str, ...]
    """Ids of videos that must rank below it."""
    top: int
    shared: int
    line: int

    @property
    def texts(self) -> tuple[str, ...]:
        """The test's queries."""
        return (self.query, self.same_as) if self.kind == "invariance" else (self.query,)


def read_behaviour(
    data: Path, videos: Collection[str], bad_videos: Mapping[str, str], max_text_characters: int
) -> tuple[list[BehaviourTest], list[BadRecord]]:
    """Reads the tests of `data/behaviour.jsonl`, and the bad lines. Both are empty if there is no such file.

    `videos` are the ids of good videos. `bad_videos` has the reason of each quarantined one. Raises DataError for an unreadable file.
    """
    tests: list[BehaviourTest] = []
    if not (data / BEHAVIOUR_FILE).exists():
        return [], []

    def read(record: dict[str, Any], line: int) -> None:
        test = parse_test(record, line)
        for text in test.texts:
            if len(text) > max_text_characters:
                advice = "shorten it, or raise validate.max_text_characters"
                raise RecordError(
                    "text_too_long", f"a query has {len(text)} characters; at most {max_text_characters} are allowed: {advice}"
                )
        for video in (*test.video, *test.above):
            if video in bad_videos:
                problem = f"video {show(video)} is quarantined ({bad_videos[video]})"
                raise RecordError("bad_video", f"{problem}; repair the video, or name another")
            if video not in videos:
                raise RecordError("unknown_video", f"video {show(video)} is not in {VIDEOS_FILE}; add it, or correct the id")
        tests.append(test)

    return tests, read_records(data, BEHAVIOUR_FILE, read)


def belong_to_other_data(tests: Sequence[BehaviourTest], bad: Sequence[BadRecord]) -> bool:
    """Returns whether the file was written for other data: of the tests that name videos, more name unknown ones than known ones.

    `tests` and `bad` are those of `read_behaviour`. The paraphrases of such a file are about other videos too, so none of it is of use.
    """
    return sum(record.reason == "unknown_video" for record in bad) > sum(bool(test.video) for test in tests)


def write_behaviour(path: Path, tests: Sequence[BehaviourTest]) -> None:
    """Writes the tests with all fields, one per line."""
    write_lines(path, (json.dumps(asdict(test), ensure_ascii=False) for test in tests))


def stored_behaviour(path: Path) -> list[BehaviourTest]:
    """Reads a file of `write_behaviour`; empty if there is no such file. Raises DataError for a file of another format."""
    if not path.is_file():
        return []
    try:
        return list(_stored(path.read_text(encoding="utf-8").split("\n")))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a file of behaviour tests ({error!r}). Run `reelnest validate` to recreate it.") from None


def _stored(lines: Sequence[str]) -> Iterator[BehaviourTest]:
    for line in filter(None, lines):
        record = json.loads(line)
        yield BehaviourTest(**{**record, "video": tuple(record["video"]), "above": tuple(record["above"])})


def parse_test(record: dict[str, Any], line: int) -> BehaviourTest:
    """Parses a record of `behaviour.jsonl`. Raises RecordError."""
    kind = record.get("kind")
    if kind not in KINDS:
        raise RecordError("bad_kind", f"kind is {show(kind)}; expected {', '.join(KINDS)}")
    check_keys(record, KEYS[kind])
    required = [key for key in KEYS[kind] if key not in ("top", "shared")]
    for key in required:
        if key not in record:
            raise RecordError(f"missing_{key}", f"there is no {key}; a test of kind {kind} needs {', '.join(required)}")
    query = _text(record["query"], "query")
    same_as = _text(record["same_as"], "same_as") if "same_as" in required else ""
    if query == same_as:
        raise RecordError("same_query", "query and same_as are the same text; an invariance test needs two wordings")
    video, above = (_videos(record[key], key) if key in required else () for key in ("video", "above"))
    if both := set(video) & set(above):
        raise RecordError("contradiction", f"video {show(min(both))} is in both video and above; remove it from one of them")
    top = _count(record.get("top", TOP), "top", 1000) if "top" in KEYS[kind] else 0
    shared = _count(record.get("shared", (top + 1) // 2), "shared", top) if kind == "invariance" else 0
    return BehaviourTest(kind, query, same_as, video, above, top, shared, line)


def _text(value: Any, where: str) -> str:
    text = check_text(value, where)
    if is_blank(text):
        raise RecordError("empty_text", f"{where} is an empty text; write a search text, or remove the line")
    return text


def _videos(value: Any, where: str) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    if not listed:
        raise RecordError("wrong_type", f"{where} is an empty list; expected a video_id, or a list of them")
    return tuple(dict.fromkeys(check_string(video, where) for video in listed))


def _count(value: Any, where: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecordError("wrong_type", f"{where} is {show_kind(value)}; expected a whole number from 1 to {most}")
    if not 1 <= value <= most:
        raise RecordError("out_of_range", f"{where} is {value}; expected a whole number from 1 to {most}")
    return value
