"""Exact nearest neighbours by cosine at several prefix lengths of nested vectors, in one pass."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Barrier

import torch
from torch import Tensor

from reelnest.errors import ModelError
from reelnest.search.storage import Searched, read

BLOCK_QUERIES = 1024
BLOCK_SCORES = 2_000_000
"""Scores in memory at once (8 MB in float32, which fits a processor's cache). It sets the size of the corpus's blocks."""
GPU_BLOCK_SCORES = 64_000_000
"""On a GPU: 0.5 GB in two buffers. Each block and dim waits for the GPU, so there should be few blocks."""
BLOCK_NUMBERS = 1_048_576
"""Numbers of the corpus in memory at once as float32 (4 MB, which fits a processor's cache). In smaller blocks, threads wait for Python."""
LEAST_PIECES = 4
"""Pieces of the corpus, times queries, for each further thread. Threads that have less to do mostly wait for Python's lock."""

SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Ranking:
    """The best rows for each query, best first."""

    indices: Tensor  # (queries, k) int64, rows of the corpus
    scores: Tensor  # (queries, k) float32, cosines


def prefix_topk(
    queries: Tensor,
    corpus: Searched,
    dims: Sequence[int],
    k: int,
    shard: tuple[int, int] = (0, 1),
    inverse_norms: dict[int, Tensor] | None = None,
) -> dict[int, Ranking]:
    """Returns the `k` corpus rows with the highest cosine to each query, for every prefix length in `dims`.

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
        inverse_norms: 1 / norm of each row's first numbers, (corpus,) float32, by dim, from an earlier search. If one of `dims` is missing,
            they are computed, which is a third of a search of one query, and added.

    Raises ModelError for vectors that contain NaN or infinity, ValueError for invalid shapes or dims.
    """
    _check(queries, corpus, dims, k)
    k = min(k, len(corpus))
    shape = (len(queries), k)
    rankings = {dim: Ranking(queries.new_zeros(shape, dtype=torch.int64), queries.new_full(shape, -torch.inf).float()) for dim in dims}
    rising = sorted(set(dims))
    norms = {} if inverse_norms is None else inverse_norms
    for block in _blocks(len(queries), BLOCK_QUERIES):
        for dim, ranking in _topk(queries[block], corpus, rising, k, shard, norms).items():
            columns = ranking.indices.shape[1]
            rankings[dim].indices[block, :columns], rankings[dim].scores[block, :columns] = ranking.indices, ranking.scores
    return rankings


def corpus_blocks(queries: int, corpus: int, device: torch.device) -> list[slice]:
    """Returns the blocks in which the corpus is compared with `queries` queries on `device`."""
    scores = GPU_BLOCK_SCORES if device.type == "cuda" else BLOCK_SCORES
    return _blocks(corpus, max(1, scores // max(1, min(queries, BLOCK_QUERIES))))


def prefix_scores(queries: Tensor, corpus: Tensor, dim: int) -> Tensor:
    """Returns cosines of all queries with all of the corpus over the first `dim` numbers: (queries, corpus) float32."""
    queries, corpus = queries[:, :dim].float(), corpus[:, :dim].float()
    scores = (queries / _norms(queries)) @ corpus.T
    return scores.mul_(1 / _norms(corpus).T)  # scaling the scores avoids a normalised copy of the corpus for every dim


def query_blocks(queries: int, corpus: int) -> list[slice]:
    """Returns blocks of queries that have about BLOCK_SCORES scores against the full corpus."""
    return _blocks(queries, max(1, BLOCK_SCORES // max(1, corpus)))


def _blocks(rows: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


@dataclass(frozen=True)
class _Block:
    """Some rows of the corpus while they are compared: from dim to dim, more numbers are added."""

    rows: slice
    products: Tensor  # (queries, rows) float32
    scores: Tensor  # (queries, rows) float32, the products divided by the rows' norms
    squares: Tensor | None  # (rows,) float64, the rows' squared norms; None if the norms are known


def _topk(
    queries: Tensor, corpus: Searched, dims: Sequence[int], k: int, shard: tuple[int, int], norms: dict[int, Tensor]
) -> dict[int, Ranking]:
    """Computes `prefix_topk` for one block of queries. `dims` increase."""
    # The norm of a query does not change its ranking and is applied last. The numbers are scaled to at most 1, so that no sum overflows.
    queries = queries.float()
    queries = queries / queries.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
    best = {dim: _Best(len(queries), k, queries.device) for dim in dims}
    blocks = corpus_blocks(len(queries), len(corpus), queries.device)
    index, shards = shard
    blocks = blocks[len(blocks) * index // shards : len(blocks) * (index + 1) // shards]
    # Allocated once: an allocation for each block takes longer than its arithmetic.
    buffers = queries.new_empty((2, len(queries) * max((rows.stop - rows.start for rows in blocks), default=0)))
    are_known = all(dim in norms for dim in dims)
    inverse = norms if are_known else {dim: queries.new_empty(len(corpus)) for dim in dims}
    for rows in blocks:
        count = rows.stop - rows.start
        products, scores = (buffer[: len(queries) * count].view(len(queries), count) for buffer in buffers)
        squares = None if are_known else queries.new_zeros(count, dtype=torch.float64)
        block = _Block(rows, products.zero_(), scores, squares)
        before = 0
        for dim in dims:
            _add_products(queries, corpus, block, slice(before, dim), inverse[dim][rows])
            best[dim].add(scores, rows.start)
            before = dim
        if squares is not None and not torch.isfinite(squares).all():
            _check_finite("corpus", corpus)
    norms.update(inverse)
    return {dim: Ranking(best[dim].indices(), best[dim].scores() / _norms(queries[:, :dim])) for dim in dims}


def _add_products(queries: Tensor, corpus: Searched, block: _Block, columns: slice, inverse: Tensor) -> None:
    """Adds the products over `columns` of a block of the corpus, and sets the scores. Sets `inverse` unless the norms are known.

    The block is read in pieces of bounded memory. Each thread computes some of the pieces alone. If all threads shared each
    operation, they would mostly wait for each other: an operation on a piece takes microseconds, and a thread that the system has suspended
    for other work takes milliseconds to come back.
    """
    rows, width = len(inverse), columns.stop - columns.start
    piece_rows = max(1, BLOCK_NUMBERS // width if queries.device.type == "cpu" else rows)
    pieces = _blocks(rows, piece_rows)
    workers = _workers() if len(pieces) > 1 else None
    threads = min(torch.get_num_threads(), 1 + len(pieces) * len(queries) // LEAST_PIECES) if workers else 1

    def add(thread: int) -> None:
        buffer = queries.new_empty(min(piece_rows, rows) * width)
        for piece in pieces[len(pieces) * thread // threads : len(pieces) * (thread + 1) // threads]:
            numbers = read(corpus, slice(block.rows.start + piece.start, block.rows.start + piece.stop), columns, buffer)
            products = block.products[:, piece].addmm_(queries[:, columns], numbers.T)
            if block.squares is not None:
                squares = block.squares[piece].add_(torch.linalg.vector_norm(numbers, dim=1).double().square())
                inverse[piece] = squares.sqrt().clamp_min(SMALLEST_NORM).reciprocal()
            torch.mul(products, inverse[piece], out=block.scores[:, piece])

    if workers is None:
        add(0)
    else:
        list(workers.map(add, range(threads)))


@lru_cache(maxsize=1)
def _workers() -> ThreadPoolExecutor | None:
    """Returns threads whose operations use one core each; None where torch uses one."""
    threads = torch.get_num_threads()
    if threads == 1:
        return None
    pool, all_started = ThreadPoolExecutor(threads, "search", _use_one_core), Barrier(threads)
    list(pool.map(lambda _: all_started.wait(), range(threads)))
    torch.set_num_threads(threads)  # torch gives the number that was set last to the threads that begin later
    return pool


def _use_one_core() -> None:
    torch.get_num_threads()  # torch initialises a thread once, which would undo the next line
    torch.set_num_threads(1)


os.register_at_fork(after_in_child=_workers.cache_clear)  # a forked process has none of these threads


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
        """Returns the best rows of the corpus, (queries, k), best first."""
        self._merge_waiting()
        return self._indices

    def scores(self) -> Tensor:
        """Returns the best scores, (queries, k), highest first."""
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
    _check_finite("query", queries)


def _check_finite(name: str, vectors: Searched) -> None:
    # Checking row sums takes a tenth of the time. A sum may also overflow, so the rows that fail are checked number by number.
    bad = []
    for block in _blocks(len(vectors), max(1, BLOCK_NUMBERS // max(1, vectors.shape[1]))):
        numbers = vectors[block]
        rows = (~torch.isfinite(numbers.sum(1))).nonzero().squeeze(1)
        bad += [block.start + row for row in rows[~torch.isfinite(numbers[rows]).all(dim=1)].tolist()]
    if bad:
        raise ModelError(
            f"{len(bad)} of {len(vectors)} {name} vectors contain NaN or infinity; the first is row {bad[0]}. Training has"
            " diverged or the weights are damaged. Check the loss in reports/training.csv; lower train.learning_rate."
        )
