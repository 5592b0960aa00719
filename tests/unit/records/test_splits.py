import random
from dataclasses import replace

import pytest

from reelnest.records.formats import Pair, Side
from reelnest.records.splits import assign_splits, connected_components


def pair(query: Side, target: Side, split: str | None = None, line: int = 1) -> Pair:
    return Pair(query, target, 1.0, split, (), line)


def random_pairs(seed: int, count: int = 400, names: int = 300) -> list[Pair]:
    """Pairs of all kinds, whose sides meet often enough to make components of many sizes. A text and a video may have one name."""
    chance = random.Random(seed)
    sides = [Side("text", f"{n}") for n in range(names)] + [Side("video", f"{n}") for n in range(names)]
    drawn = [chance.sample(sides, 2) for _ in range(count)]
    return [pair(query, target, line=line) for line, (query, target) in enumerate(drawn, start=1)]


def components_by_search(pairs: list[Pair]) -> list[set[int]]:
    """The same, found another way: by walking from side to side."""
    neighbours: dict[Side, set[Side]] = {}
    for one in pairs:
        neighbours.setdefault(one.query, set()).add(one.target)
        neighbours.setdefault(one.target, set()).add(one.query)
    seen: set[Side] = set()
    found = []
    for side in neighbours:
        if side in seen:
            continue
        reached, ahead = {side}, [side]
        while ahead:
            new = neighbours[ahead.pop()] - reached
            reached |= new
            ahead += new
        seen |= reached
        found.append({one.line for one in pairs if one.query in reached})
    return found


@pytest.mark.parametrize("seed", range(20))
def test_no_query_and_no_video_stands_on_two_sides(seed: int) -> None:
    pairs = random_pairs(seed)
    splits = assign_splits(pairs, 0.2, 0.2)
    assert set(splits) == {"train", "validation", "test"}
    where: dict[Side, set[str]] = {}
    for one, split in zip(pairs, splits, strict=True):
        where.setdefault(one.query, set()).add(split)
        where.setdefault(one.target, set()).add(split)
    assert all(len(found) == 1 for found in where.values())


@pytest.mark.parametrize("seed", range(20))
def test_splits_do_not_depend_on_the_order_of_the_file(seed: int) -> None:
    pairs = random_pairs(seed)
    chance = random.Random(seed + 1000)
    pairs = [replace(one, split=chance.choice([None, None, None, "train", "test"])) for one in pairs]
    by_line = {one.line: split for one, split in zip(pairs, assign_splits(pairs, 0.2, 0.2), strict=True)}
    shuffled = chance.sample(pairs, len(pairs))
    assert {one.line: split for one, split in zip(shuffled, assign_splits(shuffled, 0.2, 0.2), strict=True)} == by_line


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_that_a_walk_from_side_to_side_finds(seed: int) -> None:
    pairs = random_pairs(seed)
    found: dict[int, set[int]] = {}
    for one, component in zip(pairs, connected_components(pairs), strict=True):
        found.setdefault(component, set()).add(one.line)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, components_by_search(pairs)))


def test_a_long_chain_is_one_component() -> None:
    pairs = [pair(Side("text", f"{n}"), Side("text", f"{n + 1}")) for n in range(20_000)]
    assert set(connected_components(pairs)) == {0}
    assert len(set(assign_splits(pairs, 0.3, 0.3))) == 1


def test_the_fractions_are_met_over_many_components() -> None:
    pairs = [pair(Side("text", f"query {n}"), Side("video", f"{n}")) for n in range(10_000)]
    splits = assign_splits(pairs, 0.1, 0.2)
    assert splits.count("validation") / 10_000 == pytest.approx(0.1, abs=0.015)
    assert splits.count("test") / 10_000 == pytest.approx(0.2, abs=0.015)


def test_what_other_components_hold_does_not_change_a_split() -> None:
    pairs = random_pairs(3)
    more = [pair(Side("text", f"new {n}"), Side("video", f"new {n}")) for n in range(50)]
    assert assign_splits(more + pairs, 0.2, 0.2)[50:] == assign_splits(pairs, 0.2, 0.2)


def test_a_fraction_of_nothing_gives_an_empty_split() -> None:
    assert set(assign_splits(random_pairs(1), 0.0, 0.0)) == {"train"}


def test_a_split_of_its_own_wins_and_what_it_holds_out_stays_held_out() -> None:
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
