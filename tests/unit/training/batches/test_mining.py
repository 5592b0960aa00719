"""Mined negatives compared with a plain search for each pair."""

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from reelnest.errors import TrainingError
from reelnest.settings import Mining
from reelnest.store.prepared import ITEMS_SCHEMA, PAIRS_SCHEMA, Pairs, Prepared
from reelnest.training.batches import mining
from reelnest.training.batches.mining import NONE, ItemVectors, mine

TEXTS, VIDEOS, WIDTH = 30, 25, 6


def prepared_of(rows: list[tuple[int, int, str]], texts: int = TEXTS, videos: int = VIDEOS) -> Prepared:
    """Prepared data of pairs (query, target, split). Nothing reads its frames."""
    items = pa.Table.from_pylist(
        [{"kind": "text" if i < texts else "video", "key": f"{i:03}", "fields": []} for i in range(texts + videos)], schema=ITEMS_SCHEMA
    )
    columns = [{"query": q, "target": t, "relevance": 1.0, "split": split, "negatives": []} for q, t, split in rows]
    return Prepared(cast("Any", range(videos)), items, pa.Table.from_pylist(columns, schema=PAIRS_SCHEMA))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """Pairs of all four kinds. Some items have many relevant items, some of them in another split."""
    random = np.random.default_rng(2)
    rows = [(int(a), int(b), "test" if k % 7 == 0 else "train") for k, (a, b) in enumerate(random.integers(TEXTS + VIDEOS, size=(90, 2)))]
    return prepared_of([row for row in rows if row[0] != row[1]])


def vectors(seed: int, rows: int) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.5


def items_of(pairs: Pairs) -> np.ndarray:
    return np.unique(np.concatenate([pairs.queries, pairs.targets]))


def mined(prepared: Prepared, settings: Mining, *, queries: Tensor | None = None, step: int = 3, **more: Any) -> np.ndarray:
    pairs = prepared.pairs("train")
    items = items_of(pairs)
    query_vectors = vectors(0, len(items)) if queries is None else queries
    item_vectors = ItemVectors(items, query_vectors, vectors(1, len(items)), torch.device("cpu"))
    return mine(prepared, pairs, item_vectors, settings, seed=0, step=step, **more).items


def window(prepared: Prepared, row: int, settings: Mining, excluded: tuple[int, ...] = ()) -> list[int]:
    """Returns the items that a pair's negatives may be drawn from, by sorting all candidates."""
    pairs = prepared.pairs("train")
    items = items_of(pairs).tolist()
    query_vectors, target_vectors = (torch.nn.functional.normalize(vectors(seed, len(items)).double(), dim=1).numpy() for seed in (0, 1))
    query, target = int(pairs.queries[row]), int(pairs.targets[row])
    cosine = {item: float(query_vectors[items.index(query)] @ target_vectors[items.index(item)]) for item in items}
    ceiling = np.inf
    if settings.relative_margin is not None:
        ceiling = cosine[target] - (1 - settings.relative_margin) * abs(cosine[target])
    allowed = [
        item
        for item in items
        if (item < TEXTS) == (target < TEXTS)
        and item not in (query, *excluded)
        and item not in prepared.related(query)
        and cosine[item] <= ceiling
    ]
    first, last = settings.ranks
    return sorted(allowed, key=lambda item: -cosine[item])[first - 1 : last]


@pytest.mark.parametrize("share", [None, 0.9])
@pytest.mark.parametrize("ranks", [(1, 3), (4, 9), (1, 200)])
def test_negatives_come_from_the_window_of_ranks_that_a_plain_search_finds(
    prepared: Prepared, ranks: tuple[int, int], share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mining, "BLOCK_ROWS", 7)
    monkeypatch.setattr(mining, "BLOCK_ITEMS", 5)
    settings = Mining(negatives_per_pair=3, ranks=ranks, relative_margin=share)
    negatives_of_pairs = mined(prepared, settings)
    assert negatives_of_pairs.shape == (len(prepared.pairs("train")), 3)
    short = 0
    for row, negatives in enumerate(negatives_of_pairs):
        allowed = window(prepared, row, settings)
        drawn = negatives[negatives != NONE].tolist()
        assert set(drawn) <= set(allowed)
        assert len(set(drawn)) == len(drawn) == min(3, len(allowed))
        short += len(drawn) < 3
    assert (short > 0) == (share is not None)


def test_the_blocks_in_which_the_corpus_is_searched_do_not_matter(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Mining(negatives_per_pair=2, ranks=(1, 6))
    expected = mined(prepared, settings)
    monkeypatch.setattr(mining, "BLOCK_ITEMS", 4)
    assert np.array_equal(mined(prepared, settings), expected)


def test_another_step_draws_others_and_the_same_step_the_same(prepared: Prepared) -> None:
    settings = Mining(negatives_per_pair=2, ranks=(1, 6))
    assert np.array_equal(mined(prepared, settings), mined(prepared, settings))
    assert not np.array_equal(mined(prepared, settings), mined(prepared, settings, step=4))


def test_excluded_items_are_not_drawn(prepared: Prepared) -> None:
    settings = Mining(negatives_per_pair=1, ranks=(1, 1))
    nearest = mined(prepared, settings)
    again = mined(prepared, settings, excluded=tuple(nearest))
    for row, [negative] in enumerate(again.tolist()):
        assert [negative] == window(prepared, row, settings, excluded=tuple(nearest[row].tolist()))


def test_a_relevant_item_of_another_split_is_never_a_negative() -> None:
    # Text 0 ranks video 3 first, which is relevant in the test split, then video 4.
    prepared = prepared_of([(0, 2, "train"), (1, 3, "train"), (1, 4, "train"), (0, 3, "test")], texts=2, videos=3)
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], *[[0.0, 0.0]] * 3])
    targets = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.5, 1.0], [1.0, 0.0], [1.0, 0.1]])
    pairs = prepared.pairs("train")
    settings = Mining(negatives_per_pair=2, ranks=(1, 2))
    item_vectors = ItemVectors(np.arange(5), queries, targets, torch.device("cpu"))
    result = mine(prepared, pairs, item_vectors, settings, seed=0, step=0)
    assert result.items.tolist()[0] == [4, NONE]
    assert result.items.tolist()[1:] == [[2, NONE]] * 2
    # 0.447 - 0.995 for the first pair; text 1 scores its targets 0 and 0.0995, and video 2 0.894.
    assert result.margin == pytest.approx(np.mean([0.44721 - 0.99504, 0 - 0.89443, 0.0995 - 0.89443]), abs=1e-4)


def test_a_model_that_has_diverged_is_named_as_such(prepared: Prepared) -> None:
    broken = vectors(0, len(items_of(prepared.pairs("train"))))
    broken[5, 2] = torch.nan
    with pytest.raises(TrainingError, match=r"after step 3 the model's vectors contain NaN.*train\.learning_rate"):
        mined(prepared, Mining(negatives_per_pair=1), queries=broken)
