"""Near duplicates of texts, beside those that a comparison of all pairs finds."""

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from reelnest.checks import near_duplicate_texts as near_duplicate_module
from reelnest.checks.near_duplicate_texts import RECALL, near_duplicate_texts
from reelnest.records.splits import normalised

SYLLABLES = ["ba", "ko", "mi", "ra", "te", "su", "lo", "né", "ka", "pi", "do", "fa", "ge", "mer", "tos", "vin", "東京", "он", "🎬"]


def trigrams(text: str) -> set[str]:
    padded = f"\0\0{normalised(text)}\0\0"
    return {padded[at : at + 3] for at in range(len(padded) - 2)}


def similarity(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


def generated_texts(count: int) -> list[str]:
    """Texts of some words, then each again with a word, a letter, the case or the sequence of words changed."""
    chance = random.Random(7)
    words = ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(300)]
    texts = []
    for number in range(count):
        text = " ".join(chance.choices(words, k=chance.randint(1, 12)))
        at = chance.randrange(len(text))
        changed = [f"{text} {chance.choice(words)}", f"{text[:at]}x{text[at + 1 :]}", text.upper(), " ".join(sorted(text.split()))]
        texts += [text, changed[number % len(changed)]]
    return texts


@pytest.mark.parametrize("least", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
def test_near_duplicates_are_those_of_a_comparison_of_all_pairs(least: float) -> None:
    texts = generated_texts(300)
    splits = random.Random(1).choices(["train", "validation", "test"], k=len(texts))
    sets, same = [trigrams(text) for text in texts], [normalised(text) for text in texts]
    pairs = combinations(range(len(texts)), 2)
    alike = {(first, second) for first, second in pairs if same[first] != same[second] and similarity(sets[first], sets[second]) >= least}
    both_ways = alike | {(second, first) for first, second in alike}
    within = {first for first, second in both_ways if splits[first] == splits[second]}
    of_train = {first for first, second in both_ways if splits[first] != "train" and splits[second] == "train"}

    near = near_duplicate_texts(texts, splits, least)
    named = {(first, int(second)) for first, second in enumerate(near.of_train) if second >= 0}
    assert named <= both_ways  # each has the similarity, with the text that is named
    assert all(splits[first] != "train" and splits[second] == "train" for first, second in named)
    assert len(named) >= RECALL * len(of_train)
    counted = set(np.flatnonzero(near.within))
    assert counted <= within
    assert len(counted) >= RECALL * len({row for row in within if near.is_first[row]})
    assert least == 1 or min(len(of_train), len(within)) >= 10


def test_equal_texts_count_once_and_are_no_near_duplicates() -> None:
    texts = ["A red car ", "a red\tcar", "a red car", "a red cart", "a red car"]
    near = near_duplicate_texts(texts, ["train", "train", "test", "test", "validation"], 0.6)
    assert near.is_first.tolist() == [True, False, True, True, True]
    assert near.of_train.tolist() == [-1, -1, -1, 0, -1]
    assert near.within.tolist() == [False, False, True, True, False]


def test_all_copies_of_a_text_name_its_near_duplicate() -> None:
    texts = ["the small dog runs fast", "the small dog runs fas", "The small dog runs fas"]
    near = near_duplicate_texts(texts, ["train", "test", "test"], 0.7)
    assert near.of_train.tolist() == [-1, 0, 0]


@pytest.mark.parametrize("texts", [[], ["only one"], ["x", ""]])
def test_few_texts_have_no_near_duplicate(texts: list[str]) -> None:
    near = near_duplicate_texts(texts, ["train", "test"][: len(texts)], 0.8)
    assert near.of_train.tolist() == [-1] * len(texts)
    assert not near.within.any()


def test_thousands_of_near_duplicates_of_one_text_are_all_flagged() -> None:
    texts = [
        "a man plays a slow song on an old guitar in the park",
        *(f"a man plays a slow song on an old guitar in park {n}" for n in range(5000)),
    ]
    near = near_duplicate_texts(texts, ["train", *["test"] * 5000], 0.7)
    assert near.within[1:].all()


def test_texts_of_a_template_are_not_all_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    template = [f"title of clip {number}" for number in range(10_000, 15_000)]  # most of their similarities are 0.6 to 0.75
    others = generated_texts(200)
    compared = []
    similarities = near_duplicate_module._similarities

    def counted(texts: Sequence[str], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
        compared.append(len(first))
        return similarities(texts, first, second)

    alone = near_duplicate_texts(others, ["train"] * len(others), 0.8)
    monkeypatch.setattr(near_duplicate_module, "_similarities", counted)
    near = near_duplicate_texts(template + others, ["train"] * (len(template) + len(others)), 0.8)
    assert sum(compared) < 15 * len(template)  # 71 for each text without a limit
    np.testing.assert_array_equal(near.within[len(template) :], alone.within)


def test_the_text_of_train_is_the_same_in_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, splits = generated_texts(100), ["train", "test"] * 100
    expected = near_duplicate_texts(texts, splits, 0.6)
    monkeypatch.setattr("reelnest.checks.near_duplicate_texts.hash", lambda text: hash(f"another process {text}"), raising=False)
    again = near_duplicate_texts(texts, splits, 0.6)
    np.testing.assert_array_equal(again.of_train, expected.of_train)
    np.testing.assert_array_equal(again.within, expected.within)
