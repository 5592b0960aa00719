"""The gate, tried with models whose difference is known."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from reelnest.registry.gate import Verdict, judge

QUERIES = 400


def figures(by_dim: Mapping[int, np.ndarray]) -> pd.DataFrame:
    tables = [
        pd.DataFrame({"pair_kind": "text_to_video", "query": [f"q{number:03}" for number in range(len(values))], "dim": dim, "mrr": values})
        for dim, values in by_dim.items()
    ]
    return pd.concat(tables, ignore_index=True)


def drawn(seed: int, gains: Mapping[int, float], noise: float = 0.1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Challenger and champion: queries of different hardness, which both find hard, and a gain at each dim."""
    random = np.random.default_rng(seed)
    hardness = random.random(QUERIES)
    # What a model finds at one dim and at the next is much the same.
    models = [hardness + noise * random.standard_normal(QUERIES) for _ in range(2)]
    sides = [{dim: model + 0.3 * noise * random.standard_normal(QUERIES) for dim in gains} for model in models]
    return figures({dim: values + gains[dim] for dim, values in sides[0].items()}), figures(sides[1])


def verdict(seed: int, gains: Mapping[int, float], margin: float = 0.02) -> Verdict:
    return judge(*drawn(seed, gains), metric="mrr", margin=margin, confidence=0.95)


@pytest.mark.parametrize(
    ("gains", "promoted", "why"),
    [
        ({16: 0.05, 64: 0.05, 128: 0.05}, True, "better at dim 16, 64, 128"),
        ({16: 0.0, 64: 0.05, 128: 0.0}, True, "better at dim 64"),
        ({16: -0.06, 64: 0.05, 128: 0.05}, False, "not shown to be as good at dim 16"),
        ({16: -0.06, 64: -0.06, 128: -0.06}, False, "not shown to be as good at dim 16, 64, 128"),
    ],
)
def test_planted_models_are_judged_by_each_dim(gains: dict[int, float], promoted: bool, why: str) -> None:
    found = verdict(1, gains)
    assert found.promoted == promoted
    assert found.reason.startswith(why)
    for one in found.differences:
        assert one.low < one.value < one.high
        assert one.value == pytest.approx(gains[one.dim], abs=0.03)


def test_the_same_model_again_is_not_better() -> None:
    champion = drawn(0, {16: 0.0, 128: 0.0})[1]
    found = judge(champion, champion, metric="mrr", margin=0.0, confidence=0.95)
    assert (found.promoted, found.reason.split(".")[0]) == (False, "nowhere shown to be better")


def test_of_equal_models_few_are_promoted() -> None:
    promoted = sum(verdict(seed, {16: 0.0, 32: 0.0, 64: 0.0, 128: 0.0}).promoted for seed in range(200))
    assert promoted <= 10  # 5 % of 200


def test_a_margin_is_what_a_model_may_be_worse_by() -> None:
    gains = {16: -0.03, 128: 0.06}
    assert not verdict(0, gains, margin=0.01).promoted
    assert verdict(0, gains, margin=0.06).promoted


def test_other_queries_are_not_compared() -> None:
    challenger, champion = drawn(0, {16: 0.5})
    found = judge(challenger[challenger["query"] != "q007"], champion, metric="mrr", margin=0.01, confidence=0.95)
    assert (found.promoted, found.reason) == (False, "not comparable: the champion was evaluated on other queries")


def test_a_dim_that_the_champion_serves_cannot_be_dropped_and_one_more_does_not_count() -> None:
    challenger, champion = drawn(0, {16: 0.1, 128: 0.1})
    dropped = judge(challenger[challenger["dim"] == 16], champion, metric="mrr", margin=0.01, confidence=0.95)
    assert (dropped.promoted, dropped.reason) == (False, "the champion serves dim 128, which this model was not trained for")
    more = judge(challenger, champion[champion["dim"] == 16], metric="mrr", margin=0.01, confidence=0.95)
    assert more.promoted
    assert [one.dim for one in more.differences] == [16]
