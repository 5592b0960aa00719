"""Hard negatives: what the present model takes for an answer to a query, and is none.

Random batches hold few of these, and what never stands in a batch is never told apart. So, before training and again as it goes on, all
queries of the training split search all of its items of their target's kind, and a few of the wrong answers that came near the top are
encoded beside the batch. Source: Xiong et al. 2020 (ANCE), https://arxiv.org/abs/2007.00808.
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
class Mined:
    """What a search for negatives found."""

    items: Indices  # (pairs, negatives_per_pair) item indices, NONE where there are fewer
    margin: float
    """Mean over the negatives of how far their score lies below that of the pair's own answer. Below 0, the model takes them for better."""


def mine(
    prepared: Prepared,
    pairs: Pairs,
    items: Indices,
    queries: Tensor,
    targets: Tensor,
    settings: Mining,
    *,
    barred: tuple[Indices, ...] | None = None,
    seed: int,
    step: int,
    device: torch.device,
) -> Mined:
    """Draws each pair's negatives from its query's window of ranks.

    Known answers of the query (in any split) and the query itself are never drawn, nor is what scores above
    `settings.max_share_of_positive` of the pair's own answer: it may be an answer that nobody marked. Ranks are counted among what is left.
    That filter is TopK-PercPos of NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831).

    The ranks of a process group take blocks of pairs in turn and tell each other what they found. Blocks and draws do not depend on how
    many ranks there are. Every rank has to call this with equal arguments.

    Args:
        prepared: tells kinds and known answers.
        pairs: each gets its own negatives, of its target's kind.
        items: (items,) item indices, rising, of all queries and targets of `pairs`.
        queries: (items, width) vectors of the items as queries; rows of items that are none are not read. Lengths do not matter.
        targets: (items, width) vectors of the items as targets; the same tensor as `queries` where the roles read alike.
        settings: the window, the filter, and how many.
        barred: for each pair, further items that must not be drawn.
        seed: of the draws, together with `step`.
        step: the optimizer step before which this happens.
        device: where scores are computed.

    Raises TrainingError for vectors that hold NaN or infinity.
    """
    if not (torch.isfinite(queries).all() and torch.isfinite(targets).all()):
        raise TrainingError(
            f"mining: after step {step} the model gives vectors that hold NaN or infinity, so nothing can be ranked. Training has diverged:"
            " look at the loss in reports/training.csv; a lower train.learning_rate helps."
        )
    started = time.perf_counter()
    rank, ranks = world()
    first_video = len(prepared) - len(prepared.store)
    blocks = _blocks(pairs, first_video)
    texts = int(np.searchsorted(items, first_video))
    # One more than the item, and 0 for none, so that the sum over ranks is what the one rank that looked has found.
    found = torch.zeros(len(pairs), settings.negatives_per_pair, dtype=torch.int64)
    margin = torch.zeros(2, dtype=torch.float64)  # summed, and of how many negatives
    with tqdm(total=len(pairs), desc="mine", unit="pair", disable=True if rank else None) as bar:
        for number in range(rank, len(blocks), ranks):
            rows = blocks[number]
            corpus = slice(texts, len(items)) if pairs.targets[rows[0]] >= first_video else slice(0, texts)
            own = [np.append(prepared.related(query), query) for query in pairs.queries[rows].tolist()]
            if barred is not None:
                own = [np.concatenate([known, barred[row]]) for known, row in zip(own, rows.tolist(), strict=True)]
            asked = F.normalize(queries[_rows_of(items, pairs.queries[rows])].to(device, torch.float32), dim=-1)  # (rows, width)
            answers = F.normalize(targets[_rows_of(items, pairs.targets[rows])].to(device, torch.float32), dim=-1)
            positives = (asked * answers).sum(1)
            scores, columns = nearest(asked, positives, targets[corpus], _cells(items[corpus], own), settings)
            drawn = _draw(scores, settings.negatives_per_pair, np.random.default_rng([seed, step, number]))  # (rows, up to as many)
            is_there = np.isfinite(np.take_along_axis(scores, drawn, axis=1))
            ids = np.where(is_there, items[corpus][np.take_along_axis(columns, drawn, axis=1)] + 1, 0)
            found[torch.from_numpy(rows), : ids.shape[1]] = torch.from_numpy(ids)
            margins = positives.cpu().numpy()[:, None] - np.take_along_axis(scores, drawn, axis=1)
            margin += torch.tensor([float(margins[is_there].sum()), float(is_there.sum())], dtype=torch.float64)
            bar.update(min(len(rows) * ranks, len(pairs) - bar.n))
    _sum_over_ranks(found, margin, device)
    seconds = time.perf_counter() - started
    if rank == 0:
        rate = len(pairs) / max(seconds, 1e-9)
        log.info("mine: %d negatives for %d pairs in %.1f s, %.0f pairs a second", int(margin[1]), len(pairs), seconds, rate)
    return Mined(found.numpy() - 1, float(margin[0] / margin[1].clamp_min(1)))


def nearest(
    queries: Tensor, positives: Tensor, corpus: Tensor, never: tuple[Tensor, Tensor], settings: Mining
) -> tuple[np.ndarray, np.ndarray]:
    """The window of ranks of each query, over the corpus in blocks.

    Args:
        queries: (rows, width), of length 1.
        positives: (rows,) the cosine of each query with its own answer.
        corpus: (items, width), of any length and on any device.
        never: rows and columns, (cells,) int64 each, of what is left out.
        settings: ranks and max_share_of_positive.

    Returns:
        Scores (rows, up to the window's width), best first, -inf where fewer are left, and columns of the corpus of the same shape.
    """
    begin, end = settings.ranks
    rows, columns = (cells.to(queries.device) for cells in never)
    ceiling = torch.full_like(positives, torch.inf)
    if settings.max_share_of_positive is not None:
        # The share of a positive score; of a negative one what lies as far below it, since a share of that would lie above.
        ceiling = positives - (1 - settings.max_share_of_positive) * positives.abs()
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
        best, kept = best.topk(min(end, best.shape[1]), dim=1)
        where = where.gather(1, kept)
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


def _cells(corpus: Indices, barred: list[Indices]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the items that are barred for each row, without those that are not in the corpus."""
    rows = np.repeat(np.arange(len(barred)), [len(found) for found in barred])
    items = np.concatenate(barred)
    columns = np.searchsorted(corpus, items)
    inside = columns < len(corpus)
    inside[inside] = corpus[columns[inside]] == items[inside]
    return torch.from_numpy(rows[inside]), torch.from_numpy(columns[inside])


def _draw(scores: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(rows, up to count) different places of each row's window, at random; those whose score is -inf only where no others are left."""
    keys = np.where(np.isfinite(scores), random.random(scores.shape), np.inf)
    return np.argsort(keys, axis=1, kind="stable")[:, :count]


def _sum_over_ranks(found: Tensor, margin: Tensor, device: torch.device) -> None:
    if world()[1] == 1:
        return
    staging = device if dist.get_backend() == "nccl" else torch.device("cpu")
    for values in (found, margin):
        moved = values.to(staging)
        dist.all_reduce(moved)
        values.copy_(moved)
