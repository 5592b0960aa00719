"""Funnel search: a short prefix of nested vectors gives a shortlist, which longer prefixes rerank.

Kusupati et al. 2022, Matryoshka Representation Learning, https://arxiv.org/abs/2205.13147, section 4.3.1 (funnel retrieval). Most of the
corpus is compared over few numbers only, and the ranking is close to that of the longest prefix.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelnest.errors import ModelError
from reelnest.search.storage import Searched, prefix
from reelnest.search.topk import SMALLEST_NORM, Ranking, prefix_topk

GATHERED = 500_000
"""Numbers of shortlisted vectors in memory at once (2 MB), so that they stay in the processor's cache."""


class Rows(Protocol):
    """Vectors that are read by row number, as floats (rows, dim)."""

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


def funnel_topk(
    queries: Tensor | NDArray[np.float32],
    corpus: Searched | NDArray[np.float32],
    dims: Sequence[int],
    shortlists: Sequence[int],
    k: int,
    inverse_norms: dict[int, Tensor] | None = None,
) -> Ranking:
    """The best `k` rows for each query: the best `shortlists[0]` by the first of `dims`, of these the best by the second, and so on.

    The first step is exact. A row that it leaves out is lost, so a shortlist shorter than `k` gives fewer than `k` results. Ties are
    ordered by corpus row, lowest first, so that a search is reproducible. Scores are cosines over the last of `dims`.

    Args:
        queries: (queries, width), any length.
        corpus: (corpus, width), any length, in any storage type that is searched by cosine.
        dims: rising prefix lengths, each at most width.
        shortlists: how many rows go from each dim to the next: one number for each dim but the last, not rising.
        k: results per query.
        inverse_norms: of the first of `dims`; see `prefix_topk`.

    Raises ModelError for NaN or infinity in the vectors that it reads, ValueError for invalid dims or shortlists. Example:

        ranking = funnel_topk(queries, corpus, dims=[16, 128], shortlists=[100], k=10)
        ranking.indices  # (queries, 10), rows of the corpus, best first
    """
    queries, vectors = torch.as_tensor(queries), torch.as_tensor(corpus) if isinstance(corpus, np.ndarray) else corpus
    _check_schedule(dims, shortlists, width=queries.shape[1])
    keep = [*shortlists, k]
    first = prefix(vectors, dims[0])
    ranking = prefix_topk(queries[:, : dims[0]], first, [dims[0]], keep[0], inverse_norms=inverse_norms)[dims[0]]
    for dim, count in zip(dims[1:], keep[1:], strict=True):
        ranking = rescore(queries[:, :dim], prefix(vectors, dim), ranking.indices, count)
    return ranking


def rescore(queries: Tensor, vectors: Rows, rows: Tensor, k: int) -> Ranking:
    """The best `k` of each query's shortlist, by cosine. Ties are ordered by row, lowest first.

    Args:
        queries: (queries, dim), any length.
        vectors: the vectors that `rows` refers to, each (dim,).
        rows: (queries, shortlist), in any order.
        k: results per query.

    Raises ModelError for NaN or infinity in a query or a shortlisted vector.
    """
    rows = rows.sort(dim=1).values
    queries = queries.float()
    scores = torch.empty(rows.shape)
    step = max(1, GATHERED // max(1, rows.shape[1] * queries.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        flat = rows[block].flatten()
        read = vectors.index_select(0, flat) if isinstance(vectors, Tensor) else vectors[flat]  # faster than vectors[flat]
        rows_of_block = read.float().view(*rows[block].shape, queries.shape[1])  # (block, shortlist, dim)
        norms = torch.linalg.vector_norm(rows_of_block, dim=2).clamp_min(SMALLEST_NORM)
        # Codes are often equal. Each row is summed alone, so that equal rows get equal scores; a matrix product does not guarantee that.
        scores[block] = (rows_of_block * queries[block, None]).sum(2) / norms
    scores /= torch.linalg.vector_norm(queries, dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
    if not torch.isfinite(scores).all():
        query, column = (~torch.isfinite(scores)).nonzero()[0].tolist()
        raise ModelError(
            f"query {query} or corpus row {int(rows[query, column])} contains NaN or infinity, so nothing can be ranked. "
            "Check the model that produced the vectors."
        )
    scores, permutation = scores.sort(dim=1, descending=True, stable=True)
    return Ranking(rows.gather(1, permutation)[:, :k].contiguous(), scores[:, :k].contiguous())


def _check_schedule(dims: Sequence[int], shortlists: Sequence[int], width: int) -> None:
    if not dims or list(dims) != sorted(set(dims)):
        raise ValueError(f"the dims of a funnel must increase; found {list(dims)}")
    if dims[-1] > width:
        raise ValueError(f"dim {dims[-1]} is outside 1 to {width}, the width of the vectors")
    if len(shortlists) != len(dims) - 1:
        raise ValueError(f"expected {len(dims) - 1} shortlists, one for each dim of the funnel but the last; found {list(shortlists)}")
    if any(count < 1 for count in shortlists) or list(shortlists) != sorted(shortlists, reverse=True):
        raise ValueError(f"the shortlists of a funnel must be at least 1 and must not increase; found {list(shortlists)}")
