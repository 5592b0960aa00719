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
    """Returns the best `k` rows for each query: the best `shortlists[0]` by the first of `dims`, the best of these by the second, etc.

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
    """Returns the best `k` of each query's shortlist, by cosine. Ties are ordered by row, lowest first.

    Args:
        queries: (queries, dim), any length.
        vectors: the vectors that `rows` refers to, each (dim,).
        rows: (queries, shortlist), in any order.
        k: results per query.

    Raises ModelError for NaN or infinity in a query or a shortlisted vector.
    """
    queries, sorted_rows = queries.float(), np.sort(rows.numpy(), axis=1)
    scores = np.empty(sorted_rows.shape, np.float32)
    for number, (query, shortlist) in enumerate(zip(queries, torch.from_numpy(sorted_rows), strict=True)):
        read = vectors.index_select(0, shortlist) if isinstance(vectors, Tensor) else vectors[shortlist]  # faster than vectors[shortlist]
        read = read.float()
        # Codes are often equal. Each row is summed alone, so that equal rows get equal scores; a matrix product does not guarantee that.
        products, norms = (read * query).sum(1), torch.linalg.vector_norm(read, dim=1)
        scores[number] = products.numpy() / np.maximum(norms.numpy(), SMALLEST_NORM)
    scores /= np.maximum(torch.linalg.vector_norm(queries, dim=1, keepdim=True).numpy(), SMALLEST_NORM)
    if not np.isfinite(scores).all():
        number, column = np.argwhere(~np.isfinite(scores))[0].tolist()
        raise ModelError(
            f"query {number} or corpus row {sorted_rows[number, column]} contains NaN or infinity, so nothing can be ranked. "
            "Check the model that produced the vectors."
        )
    permutation = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    query_numbers = np.arange(len(permutation))[:, None]
    return Ranking(torch.from_numpy(sorted_rows[query_numbers, permutation]), torch.from_numpy(scores[query_numbers, permutation]))


def _check_schedule(dims: Sequence[int], shortlists: Sequence[int], width: int) -> None:
    if not dims or list(dims) != sorted(set(dims)):
        raise ValueError(f"the dims of a funnel must increase; found {list(dims)}")
    if dims[-1] > width:
        raise ValueError(f"dim {dims[-1]} is outside 1 to {width}, the width of the vectors")
    if len(shortlists) != len(dims) - 1:
        raise ValueError(f"expected {len(dims) - 1} shortlists, one for each dim of the funnel but the last; found {list(shortlists)}")
    if any(count < 1 for count in shortlists) or list(shortlists) != sorted(shortlists, reverse=True):
        raise ValueError(f"the shortlists of a funnel must be at least 1 and must not increase; found {list(shortlists)}")
