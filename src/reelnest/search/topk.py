"""Exact nearest neighbours by cosine at several prefix lengths of nested vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reelnest.errors import ModelError

BLOCK_SCORES = 16_000_000
"""Scores held at once (64 MB in float32): queries are taken in blocks of so many scores against the whole corpus."""

SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Ranking:
    """The best answers of each query, best first."""

    indices: Tensor  # (queries, k) int64, rows of the corpus
    scores: Tensor  # (queries, k) float32, cosines


def prefix_topk(queries: Tensor, corpus: Tensor, dims: Sequence[int], k: int) -> dict[int, Ranking]:
    """The `k` corpus rows with the highest cosine to each query, for every prefix length in `dims`.

    A prefix of a unit vector is no unit vector: each is normalised anew. Equal scores are ordered by corpus row, lowest first, also where
    the cut at `k` falls between equals, so that a run repeats and a metric cannot depend on chance. `k` above the corpus gives all of it.

    Args:
        queries: (queries, width), any length.
        corpus: (corpus, width), on the same device.
        dims: prefix lengths, each at most width.
        k: answers for each query.

    Raises ModelError for vectors that hold NaN or infinity, ValueError for shapes and dims that do not fit.
    """
    _check(queries, corpus, dims, k)
    return {dim: _topk(queries, corpus, dim, min(k, len(corpus))) for dim in dims}


def prefix_scores(queries: Tensor, corpus: Tensor, dim: int) -> Tensor:
    """Cosines of all queries with all of the corpus over the first `dim` numbers: (queries, corpus) float32."""
    queries, corpus = queries[:, :dim].float(), corpus[:, :dim].float()
    scores = (queries / _norms(queries)) @ corpus.T
    return scores.mul_(1 / _norms(corpus).T)  # scaling the scores spares a normalised copy of the corpus for every dim


def query_blocks(queries: int, corpus: int) -> list[slice]:
    """Blocks of queries whose scores against the corpus fit into BLOCK_SCORES."""
    step = max(1, BLOCK_SCORES // max(1, corpus))
    return [slice(start, min(start + step, queries)) for start in range(0, queries, step)]


def _topk(queries: Tensor, corpus: Tensor, dim: int, k: int) -> Ranking:
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    scores = torch.empty(len(queries), k, dtype=torch.float32, device=queries.device)
    for block in query_blocks(len(queries), len(corpus)):
        indices[block], scores[block] = _best(prefix_scores(queries[block], corpus, dim), k)
    return Ranking(indices, scores)


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if k == 0:
        return scores.new_empty((len(scores), 0), dtype=torch.int64), scores[:, :0]
    if k == scores.shape[1]:
        values, indices = scores.sort(dim=1, descending=True, stable=True)
        return indices, values
    values, indices = scores.topk(k + 1, dim=1)
    # Where the first one left out equals the last one found, which of the two came in was chance: those queries are sorted in full.
    split = (values[:, k] == values[:, k - 1]).nonzero().squeeze(1)
    # Among those found, torch.topk leaves equal scores in any order: row by row, then by score.
    indices, order = indices[:, :k].sort(dim=1)
    values, by_score = values[:, :k].gather(1, order).sort(dim=1, descending=True, stable=True)
    indices = indices.gather(1, by_score)
    if len(split):
        full_values, full_indices = scores[split].sort(dim=1, descending=True, stable=True)
        values[split], indices[split] = full_values[:, :k], full_indices[:, :k]
    return indices, values


def _norms(vectors: Tensor) -> Tensor:
    return vectors.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)  # (rows, 1)


def _check(queries: Tensor, corpus: Tensor, dims: Sequence[int], k: int) -> None:
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"queries and corpus must be (rows, width) of one width; found {tuple(queries.shape)} and {tuple(corpus.shape)}")
    if k < 1:
        raise ValueError(f"k must be at least 1; found {k}")
    for dim in dims:
        if not 1 <= dim <= queries.shape[1]:
            raise ValueError(f"dim {dim} is outside 1 to {queries.shape[1]}, the width of the vectors")
    for name, vectors in (("query", queries), ("corpus", corpus)):
        # A sum with NaN or infinity in it is not finite either, and takes a tenth of the time; a sum may also overflow, so look again.
        bad = (~torch.isfinite(vectors.sum(1))).nonzero().squeeze(1)
        bad = bad[~torch.isfinite(vectors[bad]).all(dim=1)]
        if len(bad):
            raise ModelError(
                f"{len(bad)} of {len(vectors)} {name} vectors hold NaN or infinity (the first is row {int(bad[0])}), so nothing can be "
                "ranked. Training has diverged, or the weights are damaged: look at the loss in reports/training.csv; a lower "
                "train.learning_rate helps."
            )
