"""Quarantines videos for their texts, and pairs, given the quarantined videos.

A bad record is quarantined as a whole. Dropping one of its negatives, or truncating its text, would silently change the team's data.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from reelnest.records.formats import PAIRS_FILE, VIDEOS_FILE, BadRecord, Pair, Side, Video
from reelnest.records.json_lines import show
from reelnest.records.pair_segments import NO_SEGMENTS
from reelnest.records.splits import STRICTEST_FIRST, assign_splits

ADVICE = "shorten it, or raise validate.max_text_characters"


def quarantine_videos(videos: Sequence[Video], max_text_characters: int) -> tuple[list[Video], list[BadRecord]]:
    """Divides `videos` into usable ones, in their order, and bad ones: a text field is too long (`text_too_long`)."""
    bad: dict[int, BadRecord] = {}
    for video in videos:
        name, text = max(video.fields.items(), key=lambda field: len(field[1]), default=("", ""))
        if len(text) > max_text_characters:
            detail = f"{name} has {len(text)} characters; at most {max_text_characters} are allowed: {ADVICE}"
            bad[video.line] = BadRecord(VIDEOS_FILE, video.line, "text_too_long", detail, video.video_id)
    return [video for video in videos if video.line not in bad], list(bad.values())


def quarantine_pairs(
    pairs: Sequence[Pair],
    bad_videos: Mapping[str, str],
    max_text_characters: int,
    validation_fraction: float,
    test_fraction: float,
    files: Mapping[str, str] = NO_SEGMENTS,
) -> tuple[list[Pair], list[BadRecord]]:
    """Divides `pairs` into usable pairs, in their order, and bad ones.

    `bad_videos` has the reason of each quarantined video by its id, and what is wrong with a segment by the segment's. `files` are
    `pair_segments.segmented_files`. Reasons: `text_too_long`, `bad_video` (a side or a negative is a quarantined video), `bad_segment`,
    `leakage` (the same query and target in two splits: the test pair is used, else the validation pair), `duplicate_pair` (the same in one
    split: the first is used).
    """
    usable: list[Pair] = []
    bad: list[BadRecord] = []
    for pair in pairs:
        fault = _text_too_long(pair, max_text_characters) or (_bad_video(pair, bad_videos) if bad_videos else None)
        if fault is None:
            usable.append(pair)
        else:
            bad.append(BadRecord(PAIRS_FILE, pair.line, *fault))
    repeats = len({(pair.query, pair.target) for pair in usable}) < len(usable)
    repeated = _repeated(usable, assign_splits(usable, validation_fraction, test_fraction, files)) if repeats else []
    dropped = {record.line for record in repeated}
    return [pair for pair in usable if pair.line not in dropped], sorted(bad + repeated, key=lambda record: record.line)


def queries_without_target(pairs: Sequence[Pair], usable: Sequence[Pair]) -> list[Side]:
    """Returns the queries of `pairs` that are in no `usable` pair, in file order."""
    queries = {pair.query for pair in usable}
    return [query for query in dict.fromkeys(pair.query for pair in pairs) if query not in queries]


def _sides(pair: Pair) -> Iterator[tuple[str, Side]]:
    yield "query", pair.query
    yield "target", pair.target
    for at, negative in enumerate(pair.negatives):
        yield f"negatives[{at}]", negative


def _text_too_long(pair: Pair, most: int) -> tuple[str, str] | None:
    for where, side in _sides(pair):
        if side.kind == "text" and len(side.value) > most:
            return "text_too_long", f"{where} has {len(side.value)} characters; at most {most} are allowed: {ADVICE}"
    return None


def _bad_video(pair: Pair, bad_videos: Mapping[str, str]) -> tuple[str, str] | None:
    for where, side in _sides(pair):
        if side.kind == "video" and side.source in bad_videos:
            problem = f"{where} names video {show(side.source)}, which is quarantined ({bad_videos[side.source]})"
            return "bad_video", f"{problem}; repair the video, or remove it here"
        if side.kind == "video" and side.value in bad_videos:
            return "bad_segment", f"{where}: {bad_videos[side.value]}"
    return None


def _repeated(pairs: Sequence[Pair], splits: Sequence[str]) -> list[BadRecord]:
    """Returns all but one of the pairs with the same query and target."""
    # Held-out pairs first: a pair that is both trained on and tested would inflate the test metrics.
    strictest_first = sorted(range(len(pairs)), key=lambda at: (STRICTEST_FIRST.index(splits[at]), pairs[at].line))
    first: dict[tuple[Side, Side], int] = {}
    bad = []
    for at in strictest_first:
        used = first.setdefault((pairs[at].query, pairs[at].target), at)
        if used == at:
            continue
        line = f"line {pairs[used].line}"
        if splits[at] != splits[used]:
            problem = f"query and target are in {splits[at]} here and in {splits[used]} on {line}, which is used"
            bad.append(BadRecord(PAIRS_FILE, pairs[at].line, "leakage", f"{problem}: remove one of the two"))
        else:
            problem = f"query and target are those of {line}, which is used"
            advice = "merge the two lines: all negatives, and a higher relevance if the pair counts for more"
            bad.append(BadRecord(PAIRS_FILE, pairs[at].line, "duplicate_pair", f"{problem}: {advice}"))
    return bad


def count_by_reason(bad: Collection[BadRecord]) -> dict[str, dict[str, int]]:
    """Returns the number of bad records by file and reason."""
    counts: dict[str, dict[str, int]] = {}
    for record in bad:
        reasons = counts.setdefault(record.file, {})
        reasons[record.reason] = reasons.get(record.reason, 0) + 1
    return counts
