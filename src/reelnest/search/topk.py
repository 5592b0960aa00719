"""Exact nearest neighbours by cosine at several prefix lengths of nested vectors, in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reelnest.errors import ModelError
from reelnest.search.storage import Searched

BLOCK_QUERIES = 1024
BLOCK_SCORES = 2_000_000
"""Scores in memory at once (8 MB in float32, which fits a processor's cache). It sets the size of the corpus's blocks."""
GPU_BLOCK_SCORES = 64_000_000
"""On a GPU: 0.5 GB in two buffers. Each block and dim waits for the GPU, so there should be few blocks."""

SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Ranking:
    """The best rows for each query, best first."""

    indices: Tensor  # (queries, k) int64, rows of the corpus
    scores: Tensor  # (queries, k) float32, cosines


def prefix_topk(queries: Tensor, corpus: Searched, dims: Sequence[int], k: int, shard: tuple[int, int] = (0, 1)) -> dict[int, Ranking]:
    """The `k` corpus rows with the highest cosine to each query, for every prefix length in `dims`.

    A dot product over a prefix is the one over the next shorter prefix plus the product of the numbers between, so all dims together cost
    no more than the longest. For each block of the corpus, the products grow from dim to dim, and each dim keeps its best rows so far.
    Memory holds one block's scores and the results, whatever the size of the corpus.

    Each prefix is normalised separately, because a prefix of a unit vector is not a unit vector. Ties are ordered by corpus row, lowest
    first, also at the cut after `k`, so that results and metrics are reproducible. If `k` exceeds the corpus, all rows are returned.

    Args:
        queries: (queries, width), any length.
        corpus: (corpus, width), on the same device, of any length, in any storage type that is searched by cosine.
        dims: prefix lengths, each at most width.
        k: results per query.
        shard: (0, 1) for the full corpus, (n, shards) for the blocks of its n-th shard (see sharded.py). A shard with fewer than `k` rows
            is padded with row 0 at a score of -inf.

    Raises ModelError for vectors that contain NaN or infinity, ValueError for invalid shapes or dims.
    """
    _check(queries, corpus, dims, k)
    k = min(k, len(corpus))
    shape = (len(queries), k)
    rankings = {dim: Ranking(queries.new_zeros(shape, dtype=torch.int64), queries.new_full(shape, -torch.inf).float()) for dim in dims}
    rising = sorted(set(dims))
    for block in _blocks(len(queries), BLOCK_QUERIES):
        for dim, ranking in _topk(queries[block], corpus, rising, k, shard).items():
            columns = ranking.indices.shape[1]
            rankings[dim].indices[block, :columns], rankings[dim].scores[block, :columns] = ranking.indices, ranking.scores
    return rankings


def corpus_blocks(queries: int, corpus: int, device: torch.device) -> list[slice]:
    """The blocks in which the corpus is compared with `queries` queries on `device`."""
    scores = GPU_BLOCK_SCORES if device.type == "cuda" else BLOCK_SCORES
    return _blocks(corpus, max(1, scores // max(1, min(queries, BLOCK_QUERIES))))


def prefix_scores(queries: Tensor, corpus: Tensor, dim: int) -> Tensor:
    """Cosines of all queries with all of the corpus over the first `dim` numbers: (queries, corpus) float32."""
    queries, corpus = queries[:, :dim].float(), corpus[:, :dim].float()
    scores = (queries / _norms(queries)) @ corpus.T
    return scores.mul_(1 / _norms(corpus).T)  # scaling the scores avoids a normalised copy of the corpus for every dim


def query_blocks(queries: int, corpus: int) -> list[slice]:
    """Blocks of queries that have about BLOCK_SCORES scores against the full corpus."""
    return _blocks(queries, max(1, BLOCK_SCORES // max(1, corpus)))


def _blocks(rows: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _topk(queries: Tensor, corpus: Searched, dims: Sequence[int], k: int, shard: tuple[int, int]) -> dict[int, Ranking]:
    """`prefix_topk` for one block of queries. `dims` increase."""
    # The norm of a query does not change its ranking and is applied last. The numbers are scaled to at most 1, so that no sum overflows.
    queries = queries.float()
    queries = queries / queries.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
    best = {dim: _Best(len(queries), k, queries.device) for dim in dims}
    blocks = corpus_blocks(len(queries), len(corpus), queries.device)
    index, shards = shard
    blocks = blocks[len(blocks) * index // shards : len(blocks) * (index + 1) // shards]
    # Allocated once: an allocation for each block takes longer than its arithmetic.
    buffers = queries.new_empty((2, len(queries) * max((block.stop - block.start for block in blocks), default=0)))
    for block in blocks:
        rows = corpus[block].float()
        products, scores = (buffer[: len(queries) * len(rows)].view(len(queries), len(rows)) for buffer in buffers)
        products.zero_()
        squares = queries.new_zeros(len(rows), dtype=torch.float64)
        before = 0
        for dim in dims:
            numbers = rows[:, before:dim]
            products.addmm_(queries[:, before:dim], numbers.T)
            squares += torch.linalg.vector_norm(numbers, dim=1).double().square()
            torch.mul(products, squares.sqrt().clamp_min(SMALLEST_NORM).reciprocal().float(), out=scores)
            best[dim].add(scores, block.start)
            before = dim
    return {dim: Ranking(best[dim].indices(), best[dim].scores() / _norms(queries[:, :dim])) for dim in dims}


class _Best:
    """The best scores so far of each query of a block. The blocks of the corpus are added in rising order.

    Once `k` scores are known, only a score above a query's lowest one can still enter. There are few of these. They are collected until
    there are about as many as results, and then merged.
    """

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self._k = k
        self._scores = torch.empty(queries, 0, device=device)
        self._indices = torch.empty(queries, 0, dtype=torch.int64, device=device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # query, row of the corpus, score

    def add(self, scores: Tensor, first_row: int) -> None:
        """Adds a block's scores, (queries, rows). Its first row is row `first_row` of the corpus."""
        if self._scores.shape[1] < self._k:
            indices, values = _best(scores, min(self._k, scores.shape[1]))
            self._merge(values, indices + first_row)
            return
        queries, rows = (scores > self._scores[:, -1:]).nonzero(as_tuple=True)
        self._waiting.append((queries, rows + first_row, scores[queries, rows]))
        if sum(len(waiting) for waiting, _, _ in self._waiting) > self._indices.numel():
            self._merge_waiting()

    def indices(self) -> Tensor:
        """The best rows of the corpus, (queries, k), best first."""
        self._merge_waiting()
        return self._indices

    def scores(self) -> Tensor:
        """The best scores, (queries, k), highest first."""
        self._merge_waiting()
        return self._scores

    def _merge_waiting(self) -> None:
        if not self._waiting:
            return
        queries, rows, values = (torch.cat(tensors) for tensors in zip(*self._waiting, strict=True))
        self._waiting = []
        queries, permutation = queries.sort(stable=True)  # rows still rise within each query
        counts = queries.bincount(minlength=len(self._scores))
        columns = torch.arange(len(queries), device=queries.device) - (counts.cumsum(0) - counts)[queries]
        shape = (len(counts), int(counts.max()) if len(queries) else 0)
        table = values.new_full(shape, -torch.inf)
        table[queries, columns] = values[permutation]
        table_rows = rows.new_zeros(shape)
        table_rows[queries, columns] = rows[permutation]
        self._merge(table, table_rows)

    def _merge(self, scores: Tensor, indices: Tensor) -> None:
        """Merges scores in. Among ties, the earlier ones come first, because their rows are lower; then the lower row."""
        scores, permutation = torch.cat([self._scores, scores], dim=1).sort(dim=1, descending=True, stable=True)
        self._scores = scores[:, : self._k].contiguous()
        self._indices = torch.cat([self._indices, indices], dim=1).gather(1, permutation[:, : self._k])


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if k == 0:
        return scores.new_empty((len(scores), 0), dtype=torch.int64), scores[:, :0]
    if k == scores.shape[1]:
        values, indices = scores.sort(dim=1, descending=True, stable=True)
        return indices, values
    values, indices = scores.topk(k + 1, dim=1)
    # Where scores k and k + 1 are equal, torch.topk picks either. These queries are sorted in full.
    tied = (values[:, k] == values[:, k - 1]).nonzero().squeeze(1)
    # torch.topk leaves equal scores in any order, so the rows are sorted first and then, stably, by score.
    indices, by_row = indices[:, :k].sort(dim=1)
    values, by_score = values[:, :k].gather(1, by_row).sort(dim=1, descending=True, stable=True)
    indices = indices.gather(1, by_score)
    if len(tied):
        full_values, full_indices = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], indices[tied] = full_values[:, :k], full_indices[:, :k]
    return indices, values


def _norms(vectors: Tensor) -> Tensor:
    return vectors.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)  # (rows, 1)


def _check(queries: Tensor, corpus: Searched, dims: Sequence[int], k: int) -> None:
    if queries.ndim != 2 or len(corpus.shape) != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"queries and corpus must be (rows, width) of equal width; found {tuple(queries.shape)} and {tuple(corpus.shape)}")
    if k < 1:
        raise ValueError(f"k must be at least 1; found {k}")
    for dim in dims:
        if not 1 <= dim <= queries.shape[1]:
            raise ValueError(f"dim {dim} is outside 1 to {queries.shape[1]}, the width of the vectors")
    for name, vectors in (("query", queries), ("corpus", corpus)):
        if not isinstance(vectors, Tensor):
            continue  # int8 codes are always finite
        # Checking row sums takes a tenth of the time. A sum may also overflow, so the rows that fail are checked number by number.
        bad = (~torch.isfinite(vectors.sum(1))).nonzero().squeeze(1)
        bad = bad[~torch.isfinite(vectors[bad]).all(dim=1)]
        if len(bad):
            raise ModelError(
                f"{len(bad)} of {len(vectors)} {name} vectors contain NaN or infinity; the first is row {int(bad[0])}. Training has"
                " diverged or the weights are damaged. Check the loss in reports/training.csv; lower train.learning_rate."
            )
