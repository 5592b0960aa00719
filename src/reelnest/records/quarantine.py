"""Which pairs go, once it is known which videos do.

A pair that cannot be used as it stands is quarantined whole: dropping one of its negatives, or cutting its text, would change what the
team said without telling them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from reelnest.records.formats import PAIRS_FILE, BadRecord, Pair, Side
from reelnest.records.json_lines import show
from reelnest.records.splits import STRICTEST_FIRST, assign_splits


def quarantine_pairs(
    pairs: Sequence[Pair],
    bad_videos: Mapping[str, str],
    max_text_characters: int,
    validation_fraction: float,
    test_fraction: float,
) -> tuple[list[Pair], list[BadRecord]]:
    """Parts `pairs` into those to use, in their order, and bad ones.

    `bad_videos` has the reason of each quarantined video by its id. Reasons: `text_too_long`, `bad_video` (a side or a negative is a
    quarantined video), `leakage` (the same query and target in two splits: the test's pair is kept, else validation's), `duplicate_pair`
    (the same in one split: the first is kept).
    """
    usable: list[Pair] = []
    bad: list[BadRecord] = []
    for pair in pairs:
        fault = _text_too_long(pair, max_text_characters) or _bad_video(pair, bad_videos)
        if fault is None:
            usable.append(pair)
        else:
            bad.append(BadRecord(PAIRS_FILE, pair.line, *fault))
    repeated = _repeated(usable, assign_splits(usable, validation_fraction, test_fraction))
    dropped = {record.line for record in repeated}
    return [pair for pair in usable if pair.line not in dropped], sorted(bad + repeated, key=lambda record: record.line)


def queries_without_target(pairs: Sequence[Pair], kept: Sequence[Pair]) -> list[Side]:
    """The queries of `pairs` that none of the `kept` asks for, in the order of the file."""
    queries = {pair.query for pair in kept}
    return [query for query in dict.fromkeys(pair.query for pair in pairs) if query not in queries]


def _sides(pair: Pair) -> Iterator[tuple[str, Side]]:
    yield "query", pair.query
    yield "target", pair.target
    for at, negative in enumerate(pair.negatives):
        yield f"negatives[{at}]", negative


def _text_too_long(pair: Pair, most: int) -> tuple[str, str] | None:
    for where, side in _sides(pair):
        if side.kind == "text" and len(side.value) > most:
            advice = "shorten it, or raise validate.max_text_characters"
            return "text_too_long", f"{where} has {len(side.value)} characters; at most {most} are allowed: {advice}"
    return None


def _bad_video(pair: Pair, bad_videos: Mapping[str, str]) -> tuple[str, str] | None:
    for where, side in _sides(pair):
        if side.kind == "video" and side.value in bad_videos:
            problem = f"{where} names video {show(side.value)}, which is quarantined ({bad_videos[side.value]})"
            return "bad_video", f"{problem}; repair the video, or remove it here"
    return None


def _repeated(pairs: Sequence[Pair], splits: Sequence[str]) -> list[BadRecord]:
    """All but one of the pairs with the same query and target."""
    # Held-out pairs go first: a pair that is trained on and tested would make the test look better than the model is.
    order = sorted(range(len(pairs)), key=lambda at: (STRICTEST_FIRST.index(splits[at]), pairs[at].line))
    first: dict[tuple[Side, Side], int] = {}
    bad = []
    for at in order:
        kept = first.setdefault((pairs[at].query, pairs[at].target), at)
        if kept == at:
            continue
        line = f"line {pairs[kept].line}"
        if splits[at] != splits[kept]:
            problem = f"query and target stand in {splits[kept]} too ({line}, which is kept); here they are in {splits[at]}"
            bad.append(BadRecord(PAIRS_FILE, pairs[at].line, "leakage", f"{problem}: remove one of the two"))
        else:
            problem = f"query and target are those of {line}, which is kept"
            advice = "say it once, with all its negatives and a higher relevance if it counts for more"
            bad.append(BadRecord(PAIRS_FILE, pairs[at].line, "duplicate_pair", f"{problem}: {advice}"))
    return bad


def count_by_reason(bad: Collection[BadRecord]) -> dict[str, dict[str, int]]:
    """How many records of each file are bad, by reason."""
    counts: dict[str, dict[str, int]] = {}
    for record in bad:
        reasons = counts.setdefault(record.file, {})
        reasons[record.reason] = reasons.get(record.reason, 0) + 1
    return counts
