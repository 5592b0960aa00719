"""Warnings about data that can be used but hardly teaches or tests anything, each with its count and what to do."""

from collections import defaultdict
from collections.abc import Sequence

from reelnest.records.formats import SPLITS, Pair, Side
from reelnest.records.splits import normalised

QUOTED = 80
"""Characters of a text in a warning."""


def data_warnings(pairs: Sequence[Pair], splits: Sequence[str]) -> list[str]:
    """Returns a sentence or two for each problem of the pairs, whose splits are `splits`."""
    warnings = []
    for split in SPLITS:
        of_split = [pair for pair, chosen in zip(pairs, splits, strict=True) if chosen == split]
        warnings += _all_equal(of_split, split)
    return warnings + _leaks(pairs, splits)


def _all_equal(pairs: Sequence[Pair], split: str) -> list[str]:
    """All queries, or all targets, of several pairs are the same."""
    warnings = []
    for what, sides in (("query", {_key(pair.query) for pair in pairs}), ("target", {_key(pair.target) for pair in pairs})):
        if len(pairs) > 1 and len(sides) == 1:
            kind, value = next(iter(sides))
            use = "A model learns nothing from them" if split == "train" else "They test nothing"
            warnings.append(
                f"All {len(pairs):,} pairs of the {split} split have the same {what} ({kind} '{value[:QUOTED]}'). {use}: check the field"
                f" from which pairs.jsonl gets its {what}."
            )
    return warnings


def _leaks(pairs: Sequence[Pair], splits: Sequence[str]) -> list[str]:
    """Texts that are in several splits with different spellings. Those with one spelling are found by the expectations."""
    spellings: dict[str, dict[str, tuple[str, int]]] = defaultdict(dict)  # normalised text → spelling → (split, line)
    for pair, split in zip(pairs, splits, strict=True):
        for side in (pair.query, pair.target):
            if side.kind == "text":
                spellings[normalised(side.value)].setdefault(side.value, (split, pair.line))
    leaking = [of_text for of_text in spellings.values() if len({split for split, _ in of_text.values()}) > 1]
    if not leaking:
        return []
    first, second = _two_splits(leaking[0])
    return [
        f"{len(leaking):,} texts are in several splits, with other white space, case or Unicode form: {first} and {second}. So the test is"
        " easier than it looks. Give their pairs the same `split`, or none: pairs without a `split` whose texts differ only so are in one."
    ]


def _two_splits(spellings: dict[str, tuple[str, int]]) -> tuple[str, str]:
    """The first spelling, and the first one in another split, with split and line."""
    named = [(split, f"{text[:QUOTED]!r} ({split}, line {line})") for text, (split, line) in spellings.items()]
    return named[0][1], next(name for split, name in named if split != named[0][0])


def _key(side: Side) -> tuple[str, str]:
    return side.kind, normalised(side.value) if side.kind == "text" else side.value
