"""Exact nearest neighbours by cosine at several prefix lengths of nested vectors, in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reelnest.errors import ModelError
from reelnest.search.storage import Corpus

BLOCK_QUERIES = 1024
BLOCK_SCORES = 2_000_000
"""Scores held at once (8 MB in float32, which a processor's cache holds): the corpus passes by in blocks of so many."""

SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Ranking:
    """The best answers of each query, best first."""

    indices: Tensor  # (queries, k) int64, rows of the corpus
    scores: Tensor  # (queries, k) float32, cosines


def prefix_topk(queries: Tensor, corpus: Corpus, dims: Sequence[int], k: int, part: tuple[int, int] = (0, 1)) -> dict[int, Ranking]:
    """The `k` corpus rows with the highest cosine to each query, for every prefix length in `dims`.

    A dot product over a prefix is that over the next shorter one and a block more, so all dims cost the products of the longest one: for
    each block of the corpus they grow from dim to dim, and each dim keeps its best so far. Memory is that of one block's scores and of the
    answers, however large the corpus.

    A prefix of a unit vector is no unit vector: each is normalised anew. Equal scores are ordered by corpus row, lowest first, also where
    the cut at `k` falls between equals, so that a run repeats and a metric cannot depend on chance. `k` above the corpus gives all of it.

    Args:
        queries: (queries, width), any length.
        corpus: (corpus, width), on the same device; any length, any storage type that is read out as floats.
        dims: prefix lengths, each at most width.
        k: answers for each query.
        part: (0, 1) for all of the corpus, (n, parts) for its n-th part, whole blocks of it (see sharded.py). A part that holds fewer
            than `k` rows fills up with row 0 at a score of -inf.

    Raises ModelError for vectors that hold NaN or infinity, ValueError for shapes and dims that do not fit.
    """
    _check(queries, corpus, dims, k)
    k = min(k, len(corpus))
    shape = (len(queries), k)
    rankings = {dim: Ranking(queries.new_zeros(shape, dtype=torch.int64), queries.new_full(shape, -torch.inf).float()) for dim in dims}
    rising = sorted(set(dims))
    for block in _blocks(len(queries), BLOCK_QUERIES):
        for dim, ranking in _topk(queries[block], corpus, rising, k, part).items():
            of_part = ranking.indices.shape[1]
            rankings[dim].indices[block, :of_part], rankings[dim].scores[block, :of_part] = ranking.indices, ranking.scores
    return rankings


def corpus_blocks(queries: int, corpus: int) -> list[slice]:
    """The blocks of the corpus that pass by a block of so many queries."""
    return _blocks(corpus, max(1, BLOCK_SCORES // max(1, min(queries, BLOCK_QUERIES))))


def prefix_scores(queries: Tensor, corpus: Tensor, dim: int) -> Tensor:
    """Cosines of all queries with all of the corpus over the first `dim` numbers: (queries, corpus) float32."""
    queries, corpus = queries[:, :dim].float(), corpus[:, :dim].float()
    scores = (queries / _norms(queries)) @ corpus.T
    return scores.mul_(1 / _norms(corpus).T)  # scaling the scores spares a normalised copy of the corpus for every dim


def query_blocks(queries: int, corpus: int) -> list[slice]:
    """Blocks of queries whose scores against the whole corpus are about BLOCK_SCORES."""
    return _blocks(queries, max(1, BLOCK_SCORES // max(1, corpus)))


def _blocks(rows: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _topk(queries: Tensor, corpus: Corpus, dims: Sequence[int], k: int, part: tuple[int, int]) -> dict[int, Ranking]:
    """For one block of queries; `dims` rise."""
    # Lengths of queries change no order, and come last. Numbers of any size are brought to at most 1, so that no sum overflows.
    queries = queries.float()
    queries = queries / queries.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
    best = {dim: _Best(len(queries), k, queries.device) for dim in dims}
    blocks = corpus_blocks(len(queries), len(corpus))
    number, parts = part
    blocks = blocks[len(blocks) * number // parts : len(blocks) * (number + 1) // parts]
    # Made once: fresh memory for each block would take longer than what is done with it.
    held = queries.new_empty((2, len(queries) * max((block.stop - block.start for block in blocks), default=0)))
    for block in blocks:
        rows = corpus[block].float()
        products, scores = (buffer[: len(queries) * len(rows)].view(len(queries), len(rows)) for buffer in held)
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
    """The best scores so far of each query of a block, from blocks of the corpus in rising order.

    Once `k` are known, only what is above a query's last one can still come in. Such scores are few, and are collected until there are
    about as many as answers; then they are sorted into these.
    """

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self._k = k
        self._scores = torch.empty(queries, 0, device=device)
        self._indices = torch.empty(queries, 0, dtype=torch.int64, device=device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # query, row of the corpus, score

    def add(self, scores: Tensor, first_row: int) -> None:
        """`scores` (queries, rows of the block), of which the first is `first_row` of the corpus."""
        if self._scores.shape[1] < self._k:
            indices, values = _best(scores, min(self._k, scores.shape[1]))
            self._merge(values, indices + first_row)
            return
        queries, rows = (scores > self._scores[:, -1:]).nonzero(as_tuple=True)
        self._waiting.append((queries, rows + first_row, scores[queries, rows]))
        if sum(len(waiting) for waiting, _, _ in self._waiting) > self._indices.numel():
            self._settle()

    def indices(self) -> Tensor:
        """(queries, k), best first."""
        self._settle()
        return self._indices

    def scores(self) -> Tensor:
        """(queries, k), falling."""
        self._settle()
        return self._scores

    def _settle(self) -> None:
        if not self._waiting:
            return
        queries, rows, values = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        queries, order = queries.sort(stable=True)  # rows still rise within each query
        counts = queries.bincount(minlength=len(self._scores))
        columns = torch.arange(len(queries), device=queries.device) - (counts.cumsum(0) - counts)[queries]
        shape = (len(counts), int(counts.max()) if len(queries) else 0)
        table = values.new_full(shape, -torch.inf)
        table[queries, columns] = values[order]
        table_rows = rows.new_zeros(shape)
        table_rows[queries, columns] = rows[order]
        self._merge(table, table_rows)

    def _merge(self, scores: Tensor, indices: Tensor) -> None:
        """Among equals those come first that were there before, whose rows are lower, and then the lower row."""
        scores, order = torch.cat([self._scores, scores], dim=1).sort(dim=1, descending=True, stable=True)
        self._scores = scores[:, : self._k].contiguous()
        self._indices = torch.cat([self._indices, indices], dim=1).gather(1, order[:, : self._k])


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


def _check(queries: Tensor, corpus: Corpus, dims: Sequence[int], k: int) -> None:
    if queries.ndim != 2 or len(corpus.shape) != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"queries and corpus must be (rows, width) of one width; found {tuple(queries.shape)} and {tuple(corpus.shape)}")
    if k < 1:
        raise ValueError(f"k must be at least 1; found {k}")
    for dim in dims:
        if not 1 <= dim <= queries.shape[1]:
            raise ValueError(f"dim {dim} is outside 1 to {queries.shape[1]}, the width of the vectors")
    for name, vectors in (("query", queries), ("corpus", corpus)):
        if not isinstance(vectors, Tensor):
            continue  # codes, which are always numbers
        # A sum with NaN or infinity in it is not finite either, and takes a tenth of the time; a sum may also overflow, so look again.
        bad = (~torch.isfinite(vectors.sum(1))).nonzero().squeeze(1)
        bad = bad[~torch.isfinite(vectors[bad]).all(dim=1)]
        if len(bad):
            raise ModelError(
                f"{len(bad)} of {len(vectors)} {name} vectors hold NaN or infinity (the first is row {int(bad[0])}), so nothing can be "
                "ranked. Training has diverged, or the weights are damaged: look at the loss in reports/training.csv; a lower "
                "train.learning_rate helps."
            )
