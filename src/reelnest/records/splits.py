"""Which split a pair belongs to where the data does not say.

Pairs that share a query or a target are one connected component of the pair graph. A component goes to one split as a whole, so that
no query and no video that a model was trained on is asked for in the test. The choice is a hash of the component: it depends on
neither the order of the file nor a seed, and what other components hold does not change it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from reelnest.records.formats import Pair, Side, pair_kind

STRICTEST_FIRST = ("test", "validation", "train")
"""Where two splits claim the same thing, it stays held out."""


def assign_splits(pairs: Sequence[Pair], validation_fraction: float, test_fraction: float) -> list[str]:
    """The split of each pair: its own `split` where it has one, else its component's.

    Components are hashed one by one, so the fractions are met on average over components, not exactly and not over pairs. Pairs with
    a split of their own do not bind: what they share with the others is the business of whoever divided them. A component in which some
    pairs have a split of their own and some have none follows the strictest of those (test, then validation), so that what was held out
    stays held out.
    """
    components = connected_components(pairs)
    names: dict[int, str] = {}
    explicit: dict[int, set[str]] = {}
    for pair, component in zip(pairs, components, strict=True):
        # The smallest name of all sides stands for the component, whatever came first.
        smallest = min(_name(pair.query), _name(pair.target))
        names[component] = min(names.get(component, smallest), smallest)
        if pair.split is not None:
            explicit.setdefault(component, set()).add(pair.split)
    chosen = {
        component: _strictest(explicit[component]) if component in explicit else _hashed(name, validation_fraction, test_fraction)
        for component, name in names.items()
    }
    return [pair.split or chosen[component] for pair, component in zip(pairs, components, strict=True)]


def connected_components(pairs: Sequence[Pair]) -> list[int]:
    """A number for each pair, the same for two pairs where a chain of shared queries or targets joins them. Negatives join nothing."""
    parents: dict[Side, Side] = {}

    def root(side: Side) -> Side:
        parents.setdefault(side, side)
        while parents[side] is not side:
            parents[side] = parents[parents[side]]
            side = parents[side]
        return side

    for pair in pairs:
        parents[root(pair.query)] = root(pair.target)
    numbers: dict[Side, int] = {}
    return [numbers.setdefault(root(pair.query), len(numbers)) for pair in pairs]


def count_pairs(pairs: Sequence[Pair], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many pairs there are by split and kind, and in `all`."""
    counts: dict[str, Counter[str]] = {}
    for pair, split in zip(pairs, splits, strict=True):
        for name in (split, "all"):
            counts.setdefault(name, Counter()).update([pair_kind(pair.query.kind, pair.target.kind), "all"])
    return {split: dict(kinds) for split, kinds in counts.items()}


def _strictest(splits: Iterable[str]) -> str:
    return min(splits, key=STRICTEST_FIRST.index)


def _hashed(name: str, validation_fraction: float, test_fraction: float) -> str:
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test_fraction:
        return "test"
    return "validation" if place < test_fraction + validation_fraction else "train"


def _name(side: Side) -> str:
    return f"{side.kind}:{side.value}"
