import hashlib
import random
from dataclasses import replace

import pytest

from reelnest.checks.data_warnings import data_warnings
from reelnest.records.formats import Pair, Side
from reelnest.records.splits import assign_splits, connected_components, count_pairs


def pair(query: Side, target: Side, split: str | None = None, line: int = 1) -> Pair:
    return Pair(query, target, 1.0, split, (), line)


def random_pairs(seed: int, count: int = 400, names: int = 300) -> list[Pair]:
    """Pairs of all kinds, in components of many sizes. A text and a video may have the same name."""
    chance = random.Random(seed)
    sides = [Side("text", f"{n}") for n in range(names)] + [Side("video", f"{n}") for n in range(names)]
    sampled = [chance.sample(sides, 2) for _ in range(count)]
    return [pair(query, target, line=line) for line, (query, target) in enumerate(sampled, start=1)]


def components_by_search(pairs: list[Pair]) -> list[set[int]]:
    """The components, by a graph search."""
    neighbours: dict[Side, set[Side]] = {}
    for pair in pairs:
        neighbours.setdefault(pair.query, set()).add(pair.target)
        neighbours.setdefault(pair.target, set()).add(pair.query)
    seen: set[Side] = set()
    components = []
    for side in neighbours:
        if side in seen:
            continue
        reached, ahead = {side}, [side]
        while ahead:
            new = neighbours[ahead.pop()] - reached
            reached |= new
            ahead += new
        seen |= reached
        components.append({pair.line for pair in pairs if pair.query in reached})
    return components


@pytest.mark.parametrize("seed", range(20))
def test_no_query_and_no_video_is_in_two_splits(seed: int) -> None:
    pairs = random_pairs(seed)
    splits = assign_splits(pairs, 0.2, 0.2)
    assert set(splits) == {"train", "validation", "test"}
    where: dict[Side, set[str]] = {}
    for pair, split in zip(pairs, splits, strict=True):
        where.setdefault(pair.query, set()).add(split)
        where.setdefault(pair.target, set()).add(split)
    assert all(len(sides) == 1 for sides in where.values())


@pytest.mark.parametrize("seed", range(20))
def test_splits_do_not_depend_on_the_order_of_the_file(seed: int) -> None:
    pairs = random_pairs(seed)
    chance = random.Random(seed + 1000)
    pairs = [replace(pair, split=chance.choice([None, None, None, "train", "test"])) for pair in pairs]
    by_line = {pair.line: split for pair, split in zip(pairs, assign_splits(pairs, 0.2, 0.2), strict=True)}
    shuffled = chance.sample(pairs, len(pairs))
    assert {pair.line: split for pair, split in zip(shuffled, assign_splits(shuffled, 0.2, 0.2), strict=True)} == by_line


@pytest.mark.parametrize("seed", range(5))
def test_components_equal_those_of_a_graph_search(seed: int) -> None:
    pairs = random_pairs(seed)
    components: dict[int, set[int]] = {}
    for pair, component in zip(pairs, connected_components(pairs), strict=True):
        components.setdefault(component, set()).add(pair.line)
    assert sorted(map(sorted, components.values())) == sorted(map(sorted, components_by_search(pairs)))


def test_a_long_chain_is_one_component() -> None:
    pairs = [pair(Side("text", f"{n}"), Side("text", f"{n + 1}")) for n in range(20_000)]
    assert set(connected_components(pairs)) == {0}
    assert len(set(assign_splits(pairs, 0.3, 0.3))) == 1


SPELLINGS = [
    "a red caf\u00e9",
    "a red cafe\u0301",
    "A Red CAF\u00c9",
    "  a red\tcaf\u00e9 ",
    "a\u00a0red caf\u00e9",
    "a \uff32\uff25\uff24 caf\u00e9",
    "a r\u200bed\ufeff caf\u00e9",
]
"""One text in several Unicode forms (NFC, NFD, full width), in other case, and with other white space and characters without width."""


def test_texts_that_differ_only_in_spelling_are_in_one_split() -> None:
    # Alone, they are in several splits.
    alone = [assign_splits([pair(Side("text", text), Side("video", f"{n}"))], 0.3, 0.3)[0] for n, text in enumerate(SPELLINGS)]
    assert len(set(alone)) > 1
    pairs = [pair(Side("text", text), Side("video", f"{n}")) for n, text in enumerate(SPELLINGS)]
    assert len(set(assign_splits(pairs, 0.3, 0.3))) == 1
    assert not any("several splits" in warning for warning in data_warnings(pairs, assign_splits(pairs, 0.3, 0.3)))
    assert any("several splits" in warning for warning in data_warnings(pairs, alone))
    # A name of a video is no text, and is not changed.
    videos = [pair(Side("video", text), Side("video", f"{n}")) for n, text in enumerate(SPELLINGS)]
    assert len(set(connected_components(videos))) == len(SPELLINGS)


def test_a_spelling_of_a_held_out_text_is_held_out() -> None:
    pairs = [pair(Side("text", "A ring"), Side("video", "1"), "test"), pair(Side("text", "a  ring"), Side("video", "2"))]
    assert assign_splits(pairs, 0.0, 0.0) == ["test", "test"]


def test_other_texts_keep_the_split_of_their_spelling() -> None:
    pairs = [pair(Side("text", f"Query  {n}"), Side("video", f"Video {n}")) for n in range(200)]
    names = [f"text:Query  {n}" for n in range(200)]
    places = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 for name in names]
    expected = ["test" if place < 0.2 else "validation" if place < 0.5 else "train" for place in places]
    assert assign_splits(pairs, 0.3, 0.2) == expected


def test_the_fractions_are_met_over_many_components() -> None:
    pairs = [pair(Side("text", f"query {n}"), Side("video", f"{n}")) for n in range(10_000)]
    splits = assign_splits(pairs, 0.1, 0.2)
    assert splits.count("validation") / 10_000 == pytest.approx(0.1, abs=0.015)
    assert splits.count("test") / 10_000 == pytest.approx(0.2, abs=0.015)


def test_a_split_does_not_depend_on_other_components() -> None:
    pairs = random_pairs(3)
    more = [pair(Side("text", f"new {n}"), Side("video", f"new {n}")) for n in range(50)]
    assert assign_splits(more + pairs, 0.2, 0.2)[50:] == assign_splits(pairs, 0.2, 0.2)


def test_a_fraction_of_zero_gives_an_empty_split() -> None:
    assert set(assign_splits(random_pairs(1), 0.0, 0.0)) == {"train"}


def test_explicit_splits_win_and_held_out_data_stays_held_out() -> None:
    cat, dog = Side("video", "cat"), Side("video", "dog")
    pairs = [
        pair(Side("text", "a cat"), cat, "train"),
        pair(Side("text", "a kitten"), cat, "test"),
        pair(Side("text", "a tom"), cat),
        pair(Side("text", "a dog"), dog, "validation"),
        pair(Side("text", "a hound"), dog),
    ]
    assert assign_splits(pairs, 0.0, 0.0) == ["train", "test", "test", "validation", "validation"]


def test_no_pairs_have_no_splits() -> None:
    assert assign_splits([], 0.1, 0.1) == []


def test_pairs_are_counted_by_split_in_the_order_of_splits_with_the_total_last() -> None:
    pairs = [pair(Side("text", "a"), Side("video", "v")), pair(Side("video", "w"), Side("text", "b"))]
    counts = count_pairs(pairs, ["test", "train"])
    assert list(counts) == ["train", "test", "all"]
    assert counts["train"] == {"video_to_text": 1, "all": 1}
    assert counts["all"] == {"text_to_video": 1, "video_to_text": 1, "all": 2}
    assert count_pairs([], []) == {}
