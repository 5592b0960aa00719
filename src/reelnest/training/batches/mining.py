"""Hard negatives: irrelevant items that the current model ranks high for a query.

Random batches hold few of these, and a model does not learn to separate items that never share a batch. So, before and during training, all
queries of the training split search its items of their target's kind. A few irrelevant items near the top are encoded with the batch.
Source: Xiong et al. 2020 (ANCE), https://arxiv.org/abs/2007.00808.
"""

import logging
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from reelnest.errors import TrainingError
from reelnest.progress import Activity
from reelnest.settings import Mining
from reelnest.store.prepared import Indices, Pairs, Prepared
from reelnest.training.distributed import world

log = logging.getLogger(__name__)

BLOCK_ROWS = 1024
BLOCK_ITEMS = 16_384
"""A block of scores has BLOCK_ROWS × BLOCK_ITEMS numbers: 64 MB in float32."""
CORPUS_SHARE = 0.5
"""Of a GPU's free memory."""
NONE = -1


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of all queries and targets of the pairs, not normalised."""

    items: Indices
    """(items,) item indices, ascending."""
    queries: Tensor
    """(items, width), of the items as queries; rows of other items are not read."""
    targets: Tensor
    """(items, width), of the items as targets; the same tensor as `queries` if both roles have the same instruction."""
    device: torch.device
    """The device that computes scores."""


@dataclass(frozen=True)
class Mined:
    """The negatives of each pair."""

    items: Indices  # (pairs, negatives_per_pair) item indices, NONE if there are fewer
    margin: float
    """Mean over the negatives of the target's score minus the negative's. Below 0, the model ranks negatives higher."""


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

    The query, its relevant items of any split, and items that score above `settings.relative_margin` of the pair's target are excluded: the
    last may be unlabelled positives. Ranks count only the other items. The filter is TopK-PercPos of NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831).

    Processes take blocks of pairs in turn and exchange their results. Blocks and draws do not depend on the number of processes. Every
    process calls this with equal arguments.

    Args:
        prepared: gives the kind and the relevant items of an item.
        pairs: each gets negatives of its target's kind.
        vectors: of all items of `pairs`.
        settings: the window, the filter and the number of negatives.
        excluded: for each pair, more items to exclude.
        seed: seeds the draws, together with `step`.
        step: the next optimizer step.

    Raises TrainingError for vectors with NaN or infinity.
    """
    _check_finite(vectors, step)
    vectors = _corpus_on_device(vectors)
    started = time.perf_counter()
    rank, ranks = world()
    first_video = len(prepared) - len(prepared.store)
    blocks = _blocks(pairs, first_video)
    # The item plus 1, and 0 for none, so that the sum over ranks is the result of the one rank that drew.
    mined = torch.zeros(len(pairs), settings.negatives_per_pair, dtype=torch.int64)
    margin = torch.zeros(2, dtype=torch.float64)  # sum and count over negatives
    with Activity("mine", len(pairs), "pair", shown=rank == 0) as activity:
        for number in range(rank, len(blocks), ranks):
            rows = blocks[number]
            excluded_items = [np.append(prepared.related(query), query) for query in pairs.queries[rows].tolist()]
            if excluded is not None:
                excluded_items = [np.concatenate([items, excluded[row]]) for items, row in zip(excluded_items, rows.tolist(), strict=True)]
            window = _search_block(pairs, rows, vectors, excluded_items, settings, first_video)
            items, margins = _draw(window, settings.negatives_per_pair, np.random.default_rng([seed, step, number]))
            mined[torch.from_numpy(rows), : items.shape[1]] = torch.from_numpy(items + 1)
            margin += torch.tensor([float(margins.sum()), float(len(margins))], dtype=torch.float64)
            activity.advance(min(len(rows) * ranks, len(pairs) - activity.done))
    _sum_over_ranks(mined, margin, vectors.device)
    seconds = time.perf_counter() - started
    if rank == 0:
        rate = len(pairs) / max(seconds, 1e-9)
        log.info("mine: %d negatives for %d pairs in %.1f s, %.0f pairs a second", int(margin[1]), len(pairs), seconds, rate)
    return Mined(mined.numpy() - 1, float(margin[0] / margin[1].clamp_min(1)))


@dataclass(frozen=True)
class _Window:
    """The window of ranks of some queries, from which negatives are drawn."""

    items: Indices
    """(rows, up to the window's width) item indices, best first."""
    scores: np.ndarray
    """(rows, up to the window's width), -inf for missing items."""
    positives: np.ndarray
    """(rows,) the score of each pair's target."""


def _search_block(
    pairs: Pairs, rows: Indices, vectors: ItemVectors, excluded: list[Indices], settings: Mining, first_video: int
) -> _Window:
    """Searches for the queries of `rows`, which have targets of one kind. `excluded` holds the excluded items of each."""
    items, device = vectors.items, vectors.device
    texts = int(np.searchsorted(items, first_video))
    corpus = slice(texts, len(items)) if pairs.targets[rows[0]] >= first_video else slice(0, texts)
    queries = F.normalize(vectors.queries[_rows_of(items, pairs.queries[rows])].to(device, torch.float32), dim=-1)  # (rows, width)
    target_rows = _rows_of(items, pairs.targets[rows]).to(vectors.targets.device)
    targets = F.normalize(vectors.targets[target_rows].to(device, torch.float32), dim=-1)
    positives = (queries * targets).sum(1)
    scores, columns = nearest(queries, positives, vectors.targets[corpus], _cells(items[corpus], excluded), settings)
    return _Window(items[corpus][columns], scores, positives.cpu().numpy())


def _corpus_on_device(vectors: ItemVectors) -> ItemVectors:
    """Moves the targets to the device once, if they take at most `CORPUS_SHARE` of its free memory. Otherwise each block moves them."""
    if vectors.device.type != "cuda" or vectors.targets.nbytes > CORPUS_SHARE * torch.cuda.mem_get_info(vectors.device)[0]:
        return vectors
    return replace(vectors, targets=vectors.targets.to(vectors.device))


def _check_finite(vectors: ItemVectors, step: int) -> None:
    if not (torch.isfinite(vectors.queries).all() and torch.isfinite(vectors.targets).all()):
        raise TrainingError(
            f"mining: after step {step} the model's vectors contain NaN or infinity: training has diverged. See the loss in"
            " reports/training.csv and lower train.learning_rate."
        )


def nearest(
    queries: Tensor, positives: Tensor, corpus: Tensor, excluded: tuple[Tensor, Tensor], settings: Mining
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the window of ranks of each query, searching the corpus in blocks.

    Args:
        queries: (rows, width), normalised.
        positives: (rows,) the cosine of each query with its target.
        corpus: (items, width), not normalised, on any device.
        excluded: rows and columns, (cells,) int64 each, of excluded scores.
        settings: ranks and relative_margin.

    Returns:
        Scores (rows, up to the window's width), best first, -inf if there are fewer, and corpus columns of the same shape.
    """
    begin, end = settings.ranks
    rows, columns = (cells.to(queries.device) for cells in excluded)
    ceiling = torch.full_like(positives, torch.inf)
    if settings.relative_margin is not None:
        # A fraction of a positive score. For a negative score, subtract the same distance, since a fraction would be higher.
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
    """Returns blocks of at most BLOCK_ROWS rows of pairs with targets of one kind."""
    blocks = []
    for is_video in (False, True):
        rows = np.flatnonzero((pairs.targets >= first_video) == is_video)
        blocks += [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
    return blocks


def _rows_of(items: Indices, chosen: Indices) -> Tensor:
    return torch.from_numpy(np.searchsorted(items, chosen))


def _cells(corpus: Indices, excluded: list[Indices]) -> tuple[Tensor, Tensor]:
    """Returns rows and columns of each row's excluded items, without items outside the corpus."""
    rows = np.repeat(np.arange(len(excluded)), [len(items) for items in excluded])
    items = np.concatenate(excluded)
    columns = np.searchsorted(corpus, items)
    inside = columns < len(corpus)
    inside[inside] = corpus[columns[inside]] == items[inside]
    return torch.from_numpy(rows[inside]), torch.from_numpy(columns[inside])


def _draw(window: _Window, count: int, random: np.random.Generator) -> tuple[Indices, np.ndarray]:
    """Draws up to `count` distinct items of each row's window, NONE if there are fewer, and their distances below the positive."""
    keys = np.where(np.isfinite(window.scores), random.random(window.scores.shape), np.inf)
    drawn = np.argsort(keys, axis=1, kind="stable")[:, :count]  # (rows, up to count)
    scores = np.take_along_axis(window.scores, drawn, axis=1)
    is_drawn = np.isfinite(scores)
    items = np.where(is_drawn, np.take_along_axis(window.items, drawn, axis=1), NONE)
    return items, (window.positives[:, None] - scores)[is_drawn]


def _sum_over_ranks(mined: Tensor, margin: Tensor, device: torch.device) -> None:
    if world()[1] == 1:
        return
    staging = device if dist.get_backend() == "nccl" else torch.device("cpu")
    for values in (mined, margin):
        moved = values.to(staging)
        dist.all_reduce(moved)
        values.copy_(moved)
