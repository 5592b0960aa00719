"""Assigns splits to pairs whose line has none.

Pairs that share a query or a target are in one connected component of the pair graph. Texts that differ only in spelling (see
`normalised`) count as one, and so do segments of one file. All pairs of a component are in the same split, so that no training query or
video is in the test split. A hash of the component chooses the split, independent of the order of the file, of a seed and of other
components.
"""

import hashlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from reelnest.records.formats import SPLITS, Pair, Side, pair_kind
from reelnest.records.pair_segments import NO_SEGMENTS

STRICTEST_FIRST = ("test", "validation", "train")
"""If a component or pair is in several splits, the first of these wins, so that held-out data stays held out."""


def assign_splits(
    pairs: Sequence[Pair], validation_fraction: float, test_fraction: float, files: Mapping[str, str] = NO_SEGMENTS
) -> list[str]:
    """Returns the split of each pair: the `split` on its line if there is one, else its component's.

    Each component is hashed separately, so the fractions hold on average over components, not exactly and not over pairs. Explicit splits
    are always used, even if they divide a component. In a component with explicit splits, pairs without one get the strictest of them
    (test, then validation), so that held-out data stays held out. `files` are `pair_segments.segmented_files`.
    """
    return splits_of(pairs, connected_components(pairs, files), validation_fraction, test_fraction)


def splits_of(pairs: Sequence[Pair], components: Sequence[int], validation_fraction: float, test_fraction: float) -> list[str]:
    """Returns the `assign_splits` of pairs whose components are known."""
    names: dict[int, str] = {}
    explicit: dict[int, set[str]] = {}
    for pair, component in zip(pairs, components, strict=True):
        # A component is hashed by the smallest name of its sides, independent of their order.
        smallest = min(_name(pair.query), _name(pair.target))
        names[component] = min(names.get(component, smallest), smallest)
        if pair.split is not None:
            explicit.setdefault(component, set()).add(pair.split)
    chosen = {
        component: strictest_split(explicit[component]) if component in explicit else hashed_split(name, validation_fraction, test_fraction)
        for component, name in names.items()
    }
    return [pair.split or chosen[component] for pair, component in zip(pairs, components, strict=True)]


def connected_components(pairs: Sequence[Pair], files: Mapping[str, str] = NO_SEGMENTS) -> list[int]:
    """Returns a component number for each pair: equal if a chain of shared queries or targets connects two pairs. Negatives do not connect.

    Texts are shared if they are `normalised` to the same, and videos if they have the same file in `files`.
    """
    numbers: dict[str, int] = {}
    parents: list[int] = []

    def number(side: Side) -> int:
        known = numbers.setdefault(_name(_alike(side, files)), len(parents))
        if known == len(parents):
            parents.append(known)
        return known

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    queries = array("q")
    for pair in pairs:
        query, target = number(pair.query), number(pair.target)
        queries.append(query)
        parents[root(query)] = root(target)
    components: dict[int, int] = {}
    return [components.setdefault(root(query), len(components)) for query in queries]


def normalised(text: str) -> str:
    """Returns the text without differences in Unicode form and width, white space, characters without width, and case."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())  # some case pairs have other forms
        text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(text.casefold().split())


def count_pairs(pairs: Sequence[Pair], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """Returns the number of pairs by split and kind, each with the total `all`; splits in their usual order, the total last."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*SPLITS, "all")}
    groups = Counter((split, pair.query.kind, pair.target.kind) for pair, split in zip(pairs, splits, strict=True))
    for (split, query, target), count in groups.items():
        for name in (split, "all"):
            counts[name].update({pair_kind(query, target): count, "all": count})
    return {split: dict(kinds) for split, kinds in counts.items() if kinds}


def strictest_split(splits: Iterable[str]) -> str:
    """Returns the split of data that is in several: test before validation before train."""
    return min(splits, key=STRICTEST_FIRST.index)


def hashed_split(name: str, validation_fraction: float, test_fraction: float) -> str:
    """Returns the split of a group of pairs by its name alone, the same on each machine and whatever else there is."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test_fraction:
        return "test"
    return "validation" if place < test_fraction + validation_fraction else "train"


def _alike(side: Side, files: Mapping[str, str]) -> Side:
    """Returns a side that is equal for all sides that must not be divided between splits."""
    if side.kind == "text":
        return Side("text", normalised(side.value))
    return Side("video", f"\0{files[side.value]}") if side.value in files else side  # no id contains NUL


def _name(side: Side) -> str:
    return f"{side.kind}:{side.value}"
