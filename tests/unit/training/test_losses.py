"""The loss against the formula, written out number by number."""

import math

import pytest
import torch
from torch import Tensor

from reelnest.training.losses import both_directions, matryoshka_infonce, weighted

DIMS = (2, 5, 8)


def by_hand(queries: Tensor, targets: Tensor, positive: list[int], masked: set[tuple[int, int]], dim: int, temperature: float) -> float:
    """-log of the right answer's share, mean over rows; plain floats."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    rows = [row[:dim] for row in queries.tolist()]
    columns = [row[:dim] for row in targets.tolist()]
    losses = []
    for i, row in enumerate(rows):
        shares = {j: math.exp(cosine(row, column) / temperature) for j, column in enumerate(columns) if (i, j) not in masked}
        losses.append(-math.log(shares[positive[i]] / sum(shares.values())))
    return sum(losses) / len(losses)


@pytest.fixture
def vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 8, generator=generator, dtype=torch.float64), torch.randn(6, 8, generator=generator, dtype=torch.float64)


def test_each_dim_equals_the_written_out_formula(vectors: tuple[Tensor, Tensor]) -> None:
    queries, targets = vectors
    positive = [4, 1, 0]
    masked = {(0, 2), (2, 5), (2, 1)}
    mask = torch.zeros(3, 6, dtype=torch.bool)
    for place in masked:
        mask[place] = True
    found = matryoshka_infonce(queries, targets, torch.tensor(positive), mask, DIMS, 0.07)
    expected = [by_hand(queries, targets, positive, masked, dim, 0.07) for dim in DIMS]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_gradients_are_those_of_the_formula(vectors: tuple[Tensor, Tensor]) -> None:
    queries, targets = (part.requires_grad_() for part in vectors)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[1, 4] = True
    temperature = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)

    def loss(q: Tensor, t: Tensor, scale: Tensor) -> Tensor:
        return matryoshka_infonce(q, t, torch.tensor([0, 3, 2]), mask, DIMS, scale).sum()

    assert torch.autograd.gradcheck(loss, (queries, targets, temperature))


def test_a_masked_target_has_no_say(vectors: tuple[Tensor, Tensor]) -> None:
    queries, targets = vectors
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[:, 5] = True
    positive = torch.tensor([0, 1, 2])
    with_it = matryoshka_infonce(queries, targets, positive, mask, DIMS, 0.1)
    without = matryoshka_infonce(queries, targets[:5], positive, mask[:, :5], DIMS, 0.1)
    assert torch.equal(with_it, without)


def test_both_directions_are_counted_alike(vectors: tuple[Tensor, Tensor]) -> None:
    queries, targets = vectors[0], vectors[1][:3]
    related = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    found = both_directions(queries, targets, slice(0, 3), related, DIMS, 0.1)
    expected = [
        (
            by_hand(queries, targets, [0, 1, 2], {(0, 2)}, dim, 0.1)
            # Query 0 and target 2 belong together, so target 2's negatives are without query 0.
            + by_hand(targets, queries, [0, 1, 2], {(2, 0)}, dim, 0.1)
        )
        / 2
        for dim in DIMS
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_mean_over_shares_is_the_whole(vectors: tuple[Tensor, Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    targets = vectors[1]
    related = torch.rand(6, 6, generator=generator) < 0.2
    whole = both_directions(queries, targets, slice(0, 6), related, DIMS, 0.1)
    shares = [both_directions(queries, targets, slice(start, start + 2), related, DIMS, 0.1) for start in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(shares).mean(0), whole, rtol=1e-12, atol=0)


def test_weights_are_relative() -> None:
    losses = torch.tensor([1.0, 3.0])
    assert weighted(losses, None) == 2.0
    assert weighted(losses, (3, 1)) == weighted(losses, (6, 2)) == 1.5
    assert weighted(losses, (0, 1)) == 3.0
