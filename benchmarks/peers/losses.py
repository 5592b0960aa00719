"""Records what sentence-transformers' nested losses are, so that a test can compare ours where it is not installed.

Usage, with the Python of an environment that holds sentence-transformers (.venv-peers, which `make bench` sets up):
`python benchmarks/peers/losses.py` writes `tests/golden/sentence_transformers_losses.json`.
"""

import json
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor

OUTPUT = Path(__file__).parents[2] / "tests" / "golden" / "sentence_transformers_losses.json"
DIMS, WEIGHTS, SCALE = (2, 3, 7, 10), (1.0, 0.5, 2.0, 1.5), 20.0
BOTH = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction", "scale": SCALE}


class Given(torch.nn.Module):
    """In place of a model: its columns are vectors already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def get_embedding_dimension(self) -> int:
        """Of the vectors."""
        return self._width

    def __getitem__(self, index: int) -> torch.nn.Module:
        """Its losses look at a model's first module."""
        return self

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What goes in."""
        return dict(features)


def ordinary(queries: Tensor, targets: Tensor) -> Tensor:
    """`MatryoshkaLoss(MultipleNegativesRankingLoss)`, with its gradients."""
    model = Given(DIMS[-1])
    loss = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model, **BOTH), DIMS, WEIGHTS)
    value: Tensor = loss([{"sentence_embedding": queries}, {"sentence_embedding": targets}], None)
    value.backward()
    return value


def cached(queries: Tensor, targets: Tensor) -> Tensor:
    """`MatryoshkaLoss(CachedMultipleNegativesRankingLoss)`, with its gradients, in mini-batches of four."""
    model = Given(DIMS[-1])
    loss = MatryoshkaLoss(model, CachedMultipleNegativesRankingLoss(model, mini_batch_size=4, **BOTH), DIMS, WEIGHTS)
    parts = [[part.detach().requires_grad_() for part in vectors.split(4)] for vectors in (queries, targets)]
    value: Tensor = loss.loss.calculate_loss(parts, None, with_backward=True)
    queries.grad, targets.grad = (torch.cat([part.grad for part in side]) for side in parts)
    return value


def main() -> None:
    """Writes the file."""
    numbers = torch.Generator().manual_seed(0)
    cases: list[dict[str, Any]] = []
    for name, loss in (("ordinary", ordinary), ("cached", cached)):
        queries = torch.randn(9, DIMS[-1], generator=numbers, dtype=torch.float64)
        targets = (torch.randn(9, DIMS[-1], generator=numbers, dtype=torch.float64) + queries).requires_grad_()
        queries.requires_grad_()
        value = loss(queries, targets)
        cases.append(
            {
                "loss": name,
                "queries": queries.tolist(),
                "targets": targets.tolist(),
                "dims": DIMS,
                "weights": WEIGHTS,
                "scale": SCALE,
                "value": value.item(),
                "query_gradients": queries.grad.tolist(),
                "target_gradients": targets.grad.tolist(),
            }
        )
    made_with = {"sentence_transformers": sentence_transformers.__version__, "torch": torch.__version__}
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps({"made_with": made_with, "cases": cases}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
