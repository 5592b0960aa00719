"""Hard negatives: what the present model ranks high for a query, and is not relevant.

Random batches hold few of these, and a model does not learn to separate what never shares a batch. So, before training and again as it
goes on, all queries of the training split search all of its items of their target's kind, and a few of the irrelevant items near the top
are encoded beside the batch. Source: Xiong et al. 2020 (ANCE), https://arxiv.org/abs/2007.00808.
"""

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from reelnest.errors import TrainingError
from reelnest.settings import Mining
from reelnest.store.prepared import Indices, Pairs, Prepared
from reelnest.training.distributed import world

log = logging.getLogger(__name__)

BLOCK_ROWS = 1024
BLOCK_ITEMS = 16_384
"""Scores held at once are these two multiplied: 64 MB in float32."""
NONE = -1


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of all queries and targets of the pairs. Lengths do not matter."""

    items: Indices
    """(items,) item indices, rising."""
    queries: Tensor
    """(items, width), of the items as queries; rows of items that are none are not read."""
    targets: Tensor
    """(items, width), of the items as targets; the same tensor as `queries` where the roles read alike."""
    device: torch.device
    """Where scores are computed."""


@dataclass(frozen=True)
class Mined:
    """The negatives that a search gave."""

    items: Indices  # (pairs, negatives_per_pair) item indices, NONE where there are fewer
    margin: float
    """Mean over the negatives of how far their score is below that of the pair's own target. Below 0, the model ranks them higher."""


def mine(
    prepared: Prepared,
    pairs: Pairs,
    vectors: ItemVectors,
    settings: Mining,
    *,
    excluded: tuple[Indices, ...] | None = None,
    seed: int,
    step: int,
) -> Mined:
    """Draws each pair's negatives from its query's window of ranks.

    Known relevant items of the query (in any split) and the query itself are never drawn, nor is what scores above
    `settings.relative_margin` of the pair's own target: it may be relevant, and nobody marked it. Ranks are counted among what is left.
    That filter is TopK-PercPos of NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831).

    The ranks of a process group take blocks of pairs in turn and exchange their results. Blocks and draws do not depend on how many ranks
    there are. Every rank has to call this with equal arguments.

    Args:
        prepared: says of which kind an item is, and what is relevant.
        pairs: each gets its own negatives, of its target's kind.
        vectors: of all items of `pairs`.
        settings: the window, the filter, and how many.
        excluded: for each pair, further items that must not be drawn.
        seed: of the draws, together with `step`.
        step: the optimizer step before which this happens.

    Raises TrainingError for vectors that hold NaN or infinity.
    """
    _check_finite(vectors, step)
    started = time.perf_counter()
    rank, ranks = world()
    first_video = len(prepared) - len(prepared.store)
    blocks = _blocks(pairs, first_video)
    # One more than the item, and 0 for none, so that the sum over ranks is what the one rank that looked has drawn.
    mined = torch.zeros(len(pairs), settings.negatives_per_pair, dtype=torch.int64)
    margin = torch.zeros(2, dtype=torch.float64)  # summed, and of how many negatives
    with tqdm(total=len(pairs), desc="mine", unit="pair", disable=True if rank else None) as bar:
        for number in range(rank, len(blocks), ranks):
            rows = blocks[number]
            never = [np.append(prepared.related(query), query) for query in pairs.queries[rows].tolist()]
            if excluded is not None:
                never = [np.concatenate([items, excluded[row]]) for items, row in zip(never, rows.tolist(), strict=True)]
            window = _search_block(pairs, rows, vectors, never, settings, first_video)
            items, margins = _draw(window, settings.negatives_per_pair, np.random.default_rng([seed, step, number]))
            mined[torch.from_numpy(rows), : items.shape[1]] = torch.from_numpy(items + 1)
            margin += torch.tensor([float(margins.sum()), float(len(margins))], dtype=torch.float64)
            bar.update(min(len(rows) * ranks, len(pairs) - bar.n))
    _sum_over_ranks(mined, margin, vectors.device)
    seconds = time.perf_counter() - started
    if rank == 0:
        rate = len(pairs) / max(seconds, 1e-9)
        log.info("mine: %d negatives for %d pairs in %.1f s, %.0f pairs a second", int(margin[1]), len(pairs), seconds, rate)
    return Mined(mined.numpy() - 1, float(margin[0] / margin[1].clamp_min(1)))


@dataclass(frozen=True)
class _Window:
    """The ranks of some queries' searches from which negatives are drawn."""

    items: Indices
    """(rows, up to the window's width) item indices, best first."""
    scores: np.ndarray
    """Of the same shape, -inf where there is no item."""
    positives: np.ndarray
    """(rows,) the score of each pair's own target."""


def _search_block(pairs: Pairs, rows: Indices, vectors: ItemVectors, never: list[Indices], settings: Mining, first_video: int) -> _Window:
    """Searches for the queries of `rows`, whose targets are of one kind. `never` holds, for each of them, what it must not draw."""
    items, device = vectors.items, vectors.device
    texts = int(np.searchsorted(items, first_video))
    corpus = slice(texts, len(items)) if pairs.targets[rows[0]] >= first_video else slice(0, texts)
    queries = F.normalize(vectors.queries[_rows_of(items, pairs.queries[rows])].to(device, torch.float32), dim=-1)  # (rows, width)
    targets = F.normalize(vectors.targets[_rows_of(items, pairs.targets[rows])].to(device, torch.float32), dim=-1)
    positives = (queries * targets).sum(1)
    scores, columns = nearest(queries, positives, vectors.targets[corpus], _cells(items[corpus], never), settings)
    return _Window(items[corpus][columns], scores, positives.cpu().numpy())


def _check_finite(vectors: ItemVectors, step: int) -> None:
    if not (torch.isfinite(vectors.queries).all() and torch.isfinite(vectors.targets).all()):
        raise TrainingError(
            f"mining: after step {step} the model gives vectors that hold NaN or infinity, so nothing can be ranked. Training has diverged:"
            " look at the loss in reports/training.csv; a lower train.learning_rate helps."
        )


def nearest(
    queries: Tensor, positives: Tensor, corpus: Tensor, never: tuple[Tensor, Tensor], settings: Mining
) -> tuple[np.ndarray, np.ndarray]:
    """The window of ranks of each query, over the corpus in blocks.

    Args:
        queries: (rows, width), of length 1.
        positives: (rows,) the cosine of each query with its own target.
        corpus: (items, width), of any length and on any device.
        never: rows and columns, (cells,) int64 each, of what is left out.
        settings: ranks and relative_margin.

    Returns:
        Scores (rows, up to the window's width), best first, -inf where fewer are left, and columns of the corpus of the same shape.
    """
    begin, end = settings.ranks
    rows, columns = (cells.to(queries.device) for cells in never)
    ceiling = torch.full_like(positives, torch.inf)
    if settings.relative_margin is not None:
        # The share of a positive score; of a negative one what lies as far below it, since a share of that would lie above.
        ceiling = positives - (1 - settings.relative_margin) * positives.abs()
    best = queries.new_empty(len(queries), 0)
    where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(corpus), BLOCK_ITEMS):
        block = F.normalize(corpus[start : start + BLOCK_ITEMS].to(queries.device, torch.float32), dim=-1)
        scores = queries @ block.T  # (rows, block)
        here = (columns >= start) & (columns < start + BLOCK_ITEMS)
        scores[rows[here], columns[here] - start] = -torch.inf
        scores.masked_fill_(scores > ceiling[:, None], -torch.inf)
        values, indices = scores.topk(min(end, scores.shape[1]), dim=1)
        best, where = torch.cat([best, values], dim=1), torch.cat([where, indices + start], dim=1)
        best, indices = best.topk(min(end, best.shape[1]), dim=1)
        where = where.gather(1, indices)
    return best[:, begin - 1 :].cpu().numpy(), where[:, begin - 1 :].cpu().numpy()


def _blocks(pairs: Pairs, first_video: int) -> list[Indices]:
    """Rows of pairs whose targets are of one kind, at most BLOCK_ROWS of them."""
    blocks = []
    for is_video in (False, True):
        rows = np.flatnonzero((pairs.targets >= first_video) == is_video)
        blocks += [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
    return blocks


def _rows_of(items: Indices, chosen: Indices) -> Tensor:
    return torch.from_numpy(np.searchsorted(items, chosen))


def _cells(corpus: Indices, excluded: list[Indices]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the items that are excluded for each row, without those that are not in the corpus."""
    rows = np.repeat(np.arange(len(excluded)), [len(items) for items in excluded])
    items = np.concatenate(excluded)
    columns = np.searchsorted(corpus, items)
    inside = columns < len(corpus)
    inside[inside] = corpus[columns[inside]] == items[inside]
    return torch.from_numpy(rows[inside]), torch.from_numpy(columns[inside])


def _draw(window: _Window, count: int, random: np.random.Generator) -> tuple[Indices, np.ndarray]:
    """Up to `count` different items of each row's window, at random, NONE where there are fewer; and how far each is below the positive."""
    keys = np.where(np.isfinite(window.scores), random.random(window.scores.shape), np.inf)
    drawn = np.argsort(keys, axis=1, kind="stable")[:, :count]  # (rows, up to count)
    scores = np.take_along_axis(window.scores, drawn, axis=1)
    is_there = np.isfinite(scores)
    items = np.where(is_there, np.take_along_axis(window.items, drawn, axis=1), NONE)
    return items, (window.positives[:, None] - scores)[is_there]


def _sum_over_ranks(mined: Tensor, margin: Tensor, device: torch.device) -> None:
    if world()[1] == 1:
        return
    staging = device if dist.get_backend() == "nccl" else torch.device("cpu")
    for values in (mined, margin):
        moved = values.to(staging)
        dist.all_reduce(moved)
        values.copy_(moved)
