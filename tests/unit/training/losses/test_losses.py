"""The loss compared with its formula in plain floats, and the dims' weights."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reelnest.settings import NestedInfoNceSettings
from reelnest.training.losses.dim_weights import DimWeights
from reelnest.training.losses.gather import GatheredBatch
from reelnest.training.losses.nested_infonce import nested_losses

DIMS = (2, 5, 8)
TEMPERATURE = torch.tensor([0.1], dtype=torch.float64)


def by_hand(rows: Tensor, columns: Tensor, masked: set[tuple[int, int]], dim: int) -> list[float]:
    """Returns -log of the softmax of each row's target, the column of the same index, in plain floats."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    results = []
    for i, row in enumerate(rows[:, :dim].tolist()):
        shares = {
            j: math.exp(cosine(row, column) / TEMPERATURE.item())
            for j, column in enumerate(columns[:, :dim].tolist())
            if (i, j) not in masked
        }
        results.append(-math.log(shares[i] / sum(shares.values())))
    return results


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def losses(queries: Tensor, targets: Tensor, related: Tensor | None = None, **others: Any) -> list[float]:
    settings = NestedInfoNceSettings(**{name: others.pop(name) for name in list(others) if name in NestedInfoNceSettings.model_fields})
    batch = GatheredBatch(queries, targets, slice(0, len(queries)), related, **others)
    by_dim: list[float] = nested_losses(batch, DIMS, TEMPERATURE, settings).tolist()
    return by_dim


@pytest.fixture
def vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 8, generator=generator, dtype=torch.float64), torch.randn(5, 8, generator=generator, dtype=torch.float64)


def test_each_dim_equals_the_written_out_formula(vectors: tuple[Tensor, Tensor]) -> None:
    queries, targets = vectors  # the last two targets are extra negatives
    related = torch.tensor([[True, False, True, False, True], [False, True, False, False, False], [False, False, False, True, False]])
    # Target 2 is relevant to query 0, so query 0 is not a negative of target 2.
    forth = [mean(by_hand(queries, targets, {(0, 2), (0, 4), (2, 3)}, dim)) for dim in DIMS]
    from_targets = [mean(by_hand(targets[:3], queries, {(2, 0)}, dim)) for dim in DIMS]
    expected = [(a + b) / 2 for a, b in zip(forth, from_targets, strict=True)]
    assert losses(queries, targets, related) == pytest.approx(expected, rel=1e-12)


def test_intra_modal_negatives_are_others_than_the_row_itself(vectors: tuple[Tensor, Tensor]) -> None:
    queries, targets = vectors[0], vectors[1][:3]
    related = torch.zeros(3, 3, dtype=torch.bool)
    related[1, 2] = True
    expected = []
    for dim in DIMS:
        # All queries are negatives too, except the row's own and related ones.
        forth = by_hand(queries, torch.cat([targets, queries]), {(0, 3), (1, 4), (2, 5), (1, 5)}, dim)
        from_targets = by_hand(targets, torch.cat([queries, targets]), {(0, 3), (1, 4), (2, 5)}, dim)
        expected.append((mean(forth) + mean(from_targets)) / 2)
    assert losses(queries, targets, intra_modal_negatives=True, related_queries=related) == pytest.approx(expected, rel=1e-12)


def test_an_item_more_similar_than_the_target_is_no_negative(vectors: tuple[Tensor, Tensor]) -> None:
    queries, targets = vectors[0], vectors[1][:3].clone()
    targets[1] = queries[0]  # another pair's target, but identical to query 0
    expected = []
    for dim in DIMS:
        cosines = torch.cosine_similarity(queries[:, None, :dim], targets[None, :, :dim], dim=-1).tolist()
        places = [(i, j) for i in range(3) for j in range(3)]
        forth = by_hand(queries, targets, {(i, j) for i, j in places if cosines[i][j] > cosines[i][i] + 0.1}, dim)
        from_targets = by_hand(targets, queries, {(j, i) for i, j in places if cosines[i][j] > cosines[j][j] + 0.1}, dim)
        expected.append((mean(forth) + mean(from_targets)) / 2)
    assert losses(queries, targets, false_negative_margin=0.1) == pytest.approx(expected, rel=1e-12)
    assert losses(queries, targets, false_negative_margin=2.0) == pytest.approx(losses(queries, targets), rel=1e-12)
    assert losses(queries, targets) != pytest.approx(expected, rel=1e-2)


def test_a_pair_counts_as_much_as_its_grade(vectors: tuple[Tensor, Tensor]) -> None:
    queries, targets = vectors[0], vectors[1][:3]
    grades = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    expected = []
    for dim in DIMS:
        of_pairs = [(a + b) / 2 for a, b in zip(by_hand(queries, targets, set(), dim), by_hand(targets, queries, set(), dim), strict=True)]
        expected.append((3 * of_pairs[0] + of_pairs[1] + of_pairs[2]) / 5)
    assert losses(queries, targets, graded_relevance=True, relevance=grades) == pytest.approx(expected, rel=1e-12)
    assert losses(queries, targets, relevance=grades) != pytest.approx(expected, rel=1e-3)


def test_given_weights_are_relative() -> None:
    dim_losses = torch.tensor([1.0, 3.0])
    assert DimWeights("equal", 2)(dim_losses) == 2.0
    assert DimWeights((3, 1), 2)(dim_losses) == DimWeights((6, 2), 2)(dim_losses) == 1.5
    assert DimWeights((0, 1), 2)(dim_losses) == 3.0


def test_random_weights_count_the_last_dim_always_and_each_other_one_half_of_the_time() -> None:
    dim_losses = torch.eye(4, dtype=torch.float64)
    weights_of = DimWeights("random", 4)
    drawn = [torch.stack([weights_of(row, seed=(0, step)) for row in dim_losses]) for step in range(400)]
    assert all(float(weights[-1]) > 0 and float(weights.sum()) == pytest.approx(1) for weights in drawn)
    shares = torch.stack([(weights > 0).double() for weights in drawn]).mean(0)
    assert shares[:3].tolist() == pytest.approx([0.5] * 3, abs=0.08)
    assert torch.equal(drawn[7], torch.stack([weights_of(row, seed=(0, 7)) for row in dim_losses]))


def test_learnt_weights_settle_where_dims_contribute_equally() -> None:
    dim_losses = torch.tensor([0.5, 2.0, 4.0])
    weights_of = DimWeights("learnt", 3)
    assert weights_of(dim_losses) == dim_losses.mean()
    assert weights_of.learnt() == [1.0, 1.0, 1.0]
    descent = torch.optim.SGD(weights_of.parameters(), lr=1.0)
    for _ in range(200):
        descent.zero_grad()
        weights_of(dim_losses).backward()
        descent.step()
    # The variance that minimises the sum is twice the loss.
    assert torch.exp(weights_of.log_variances).tolist() == pytest.approx([1.0, 4.0, 8.0], rel=1e-3)
