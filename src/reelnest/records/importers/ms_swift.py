"""ms-swift's layout for embeddings: JSON lines with `messages`, `positive_messages` and `negative_messages`.

A content is a text, or `<video>` with its file in `videos`, `positive_videos` or `negative_videos`. The id of a video is its path in the
file, without the suffix; lines with another file of the same id are not used. Each positive gives a pair, and the negatives are those of
the line. The `label` of ms-swift's pairwise losses is the relevance; a line whose label is 0 has no relevant item.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from reelnest.errors import DataError, VideoError
from reelnest.records.captioned_clips import other_file, read_json_lines
from reelnest.records.files.safe_paths import resolve
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairRow, Row, VideoRow
from reelnest.records.json_lines import RecordError, show, show_kind

TAG = "<video>"
OTHER_TAGS = ("<image>", "<audio>")


@IMPORTERS.register("ms-swift")
def read_ms_swift(source: Path) -> Iterator[Row]:
    """ms-swift's JSON lines for embeddings: messages, positive_messages and negative_messages, with <video> and the files' paths."""
    if not source.is_file():
        raise DataError(f"{source}: expected a file of JSON lines with messages and positive_messages.")
    paths: dict[str, str] = {}
    for row in read_json_lines(source):
        if isinstance(row, BadRow):
            yield row
            continue
        origin, record = row
        try:
            query = _side(record.get("messages"), record.get("videos"), "messages")
            positives = _sides(record, "positive")
            if not positives:
                raise RecordError("wrong_layout", "there are no positive_messages; expected a list of messages for each positive")
            negatives = _sides(record, "negative")
            relevance = _relevance(record)
        except RecordError as error:
            yield BadRow(origin, error.reason, str(error))
            continue
        listed = [side["video"] for side in (query, *positives, *negatives) if "video" in side]
        new = {path: _id_of(path) for path in listed if _id_of(path) not in paths}
        for path in new:
            if paths.setdefault(new[path], path) == path:
                yield _video(path, source.parent, origin)
        if conflicts := [path for path in listed if PurePosixPath(path) != PurePosixPath(paths[_id_of(path)])]:
            yield other_file(origin, _id_of(conflicts[0]), conflicts[0], paths[_id_of(conflicts[0])])
            continue
        for positive in positives:
            pair: dict[str, Any] = {"query": _named(query), "target": _named(positive), **relevance}
            if negatives:
                pair["negatives"] = [_named(negative) for negative in negatives]
            yield PairRow(origin, pair)


def _relevance(record: dict[str, Any]) -> dict[str, float]:
    label = record.get("label")
    if label is None:
        return {}
    if isinstance(label, bool) or not isinstance(label, int | float):
        raise RecordError("bad_relevance", f"label is {show_kind(label)}; expected a number, 0 for items that are not similar")
    if label <= 0:
        advice = "list such items under negative_messages of a line with positive_messages"
        raise RecordError("not_relevant", f"label is {label:g}, so the items are not similar; {advice}")
    return {"relevance": label}


def _sides(record: dict[str, Any], kind: str) -> list[dict[str, str]]:
    listed = record.get(f"{kind}_messages") or []
    files = record.get(f"{kind}_videos") or []
    if not isinstance(listed, list) or not isinstance(files, list):
        raise RecordError("wrong_layout", f"{kind}_messages and {kind}_videos must be lists")
    return [_side(messages, files[at] if at < len(files) else None, f"{kind}_messages[{at}]") for at, messages in enumerate(listed)]


def _side(messages: Any, files: Any, where: str) -> dict[str, str]:
    if not isinstance(messages, list) or len(messages) != 1 or not isinstance(messages[0], dict):
        raise RecordError("wrong_layout", f"{where} is {show(messages, 60)}; expected a list of one message")
    content = messages[0].get("content")
    if not isinstance(content, str):
        raise RecordError("wrong_layout", f"{where} has the content {show(content, 60)}; expected a text")
    if unknown := next((tag for tag in OTHER_TAGS if tag in content), None):
        raise RecordError("wrong_layout", f"{where} has {unknown}; expected a text, or {TAG} alone")
    if TAG not in content:
        if files:
            raise RecordError("mixed_side", f"{where} has a text, and files without {TAG}; expected one of them")
        return {"text": content}
    if content.replace(TAG, "", 1).strip():
        raise RecordError("mixed_side", f"{where} has a video and a text; expected one of them: put the text into the video's fields")
    if not isinstance(files, Sequence) or isinstance(files, str) or len(files) != 1 or not isinstance(files[0], str):
        raise RecordError("wrong_layout", f"{where} has {TAG}, but its files are {show(files, 60)}; expected one path")
    return {"video": files[0]}


def _named(side: dict[str, str]) -> dict[str, str]:
    return {"video": _id_of(side["video"])} if "video" in side else side


def _id_of(path: str) -> str:
    return str(Path(path).with_suffix("")) if Path(path).name else path


def _video(path: str, folder: Path, origin: Origin) -> VideoRow | BadRow:
    try:
        file = resolve(path, folder)
    except VideoError as error:
        return BadRow(origin, error.reason, str(error), _id_of(path))
    return VideoRow(origin, {"video_id": _id_of(path), "path": path}, {path: file})
