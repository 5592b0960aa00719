"""Warnings about data that can be used but hardly teaches or tests anything, or perhaps should not be used: with counts and what to do."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from reelnest.checks.personal_data import personal_data
from reelnest.records.formats import SPLITS, Pair, Side
from reelnest.records.splits import normalised

QUOTED = 80
"""Characters of a text in a warning."""
MANY_PAIRS = 100
"""Shares of fewer pairs are chance."""
LARGEST_QUERY_SHARE = 0.1
LARGEST_GRADE_SHARE = 0.99


def data_warnings(pairs: Sequence[Pair], splits: Sequence[str]) -> list[str]:
    """Returns a sentence or two for each problem of the pairs, whose splits are `splits`."""
    warnings = []
    for split in SPLITS:
        of_split = [pair for pair, chosen in zip(pairs, splits, strict=True) if chosen == split]
        warnings += _all_equal(of_split, split)
        warnings += _frequent_query(of_split, split)
    return warnings + _unbalanced_grades(pairs) + _leaks(pairs, splits) + _personal(pairs)


def _all_equal(pairs: Sequence[Pair], split: str) -> list[str]:
    """Warns if all queries, or all targets, of several pairs are the same."""
    warnings = []
    for what, sides in (("query", [pair.query for pair in pairs]), ("target", [pair.target for pair in pairs])):
        if len(pairs) > 1 and all(_key(side) == _key(sides[0]) for side in sides):
            kind, value = _key(sides[0])
            use = "A model learns nothing from them" if split == "train" else "They test nothing"
            warnings.append(
                f"All {len(pairs):,} pairs of the {split} split have the same {what} ({kind} '{value[:QUOTED]}'). {use}: check the field"
                f" from which pairs.jsonl gets its {what}."
            )
    return warnings


def _frequent_query(pairs: Sequence[Pair], split: str) -> list[str]:
    """Warns if a query, but not all, has a large share of the pairs."""
    if len(pairs) < MANY_PAIRS:
        return []
    queries = Counter(_key(pair.query) for pair in pairs)
    (kind, value), count = queries.most_common(1)[0]
    if len(queries) == 1 or count <= LARGEST_QUERY_SHARE * len(pairs):
        return []
    effect = "Batches repeat it, and its targets are no negatives of each other" if split == "train" else "The metrics are mostly about it"
    return [
        f"{count:,} of {len(pairs):,} pairs of the {split} split have the query {kind} '{value[:QUOTED]}'. {effect}: leave out some of its"
        f" pairs, until it has at most {LARGEST_QUERY_SHARE:.0%} of them."
    ]


def _unbalanced_grades(pairs: Sequence[Pair]) -> list[str]:
    """Warns if there are several grades, but almost all pairs have one of them."""
    grades = Counter(pair.relevance for pair in pairs)
    grade, count = grades.most_common(1)[0] if grades else (0.0, 0)
    if len(pairs) < MANY_PAIRS or len(grades) == 1 or count <= LARGEST_GRADE_SHARE * len(pairs):
        return []
    return [
        f"{count:,} of {len(pairs):,} pairs have the relevance {grade:g}, so the other {len(grades) - 1:,} grades hardly count in training"
        " and metrics: grade more pairs, or remove `relevance`."
    ]


def _personal(pairs: Sequence[Pair]) -> list[str]:
    """Warns of texts that look like personal data. They are not quoted, because reports are shared."""
    texts: dict[str, int] = {}
    for pair in pairs:
        for text in _texts(pair):
            texts.setdefault(text, pair.line)
    kinds = {line: kind for text, line in texts.items() if (kind := personal_data(text)) is not None}
    if not kinds:
        return []
    counts = ", ".join(f"{kind}: {count:,}" for kind, count in Counter(kinds.values()).most_common())
    return [
        f"{len(kinds):,} lines of pairs.jsonl have texts that look like personal data ({counts}). The first is line {min(kinds)}. Remove"
        " them if they are: a model and its reports can repeat what it was trained on."
    ]


def _leaks(pairs: Sequence[Pair], splits: Sequence[str]) -> list[str]:
    """Warns of texts that are in several splits with different spellings. Those with one spelling are found by the expectations."""
    first_splits: dict[str, str] = {}
    divided: set[str] = set()
    for pair, split in zip(pairs, splits, strict=True):
        for text in _texts(pair):
            if first_splits.setdefault(normalised(text), split) != split:
                divided.add(normalised(text))
    if not divided:
        return []
    spellings: dict[str, dict[str, tuple[str, int]]] = defaultdict(dict)  # normalised text → spelling → (split, line)
    for pair, split in zip(pairs, splits, strict=True):
        for text in _texts(pair):
            if normalised(text) in divided:
                spellings[normalised(text)].setdefault(text, (split, pair.line))
    leaking = [of_text for of_text in spellings.values() if len({split for split, _ in of_text.values()}) > 1]
    if not leaking:
        return []
    first, second = _two_splits(leaking[0])
    count = "1 text is" if len(leaking) == 1 else f"{len(leaking):,} texts are"
    return [
        f"{count} in several splits, with other white space, case or Unicode form: {first} and {second}. So the test is"
        " easier than it looks. Give their pairs the same `split`, or none: pairs without a `split` whose texts differ only so are in one."
    ]


def _two_splits(spellings: dict[str, tuple[str, int]]) -> tuple[str, str]:
    """Returns the first spelling, and the first one in another split, with split and line."""
    named = [(split, f"{text[:QUOTED]!r} ({split}, line {line})") for text, (split, line) in spellings.items()]
    return named[0][1], next(name for split, name in named if split != named[0][0])


def _texts(pair: Pair) -> list[str]:
    return [side.value for side in (pair.query, pair.target) if side.kind == "text"]


def _key(side: Side) -> tuple[str, str]:
    return side.kind, normalised(side.value) if side.kind == "text" else side.value
