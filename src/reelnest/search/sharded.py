"""Exact search shared by the processes of a launch: each searches one shard of the corpus, and all get all results."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from reelnest.search.storage import Corpus
from reelnest.search.topk import BLOCK_QUERIES, Ranking, corpus_blocks, prefix_topk


def sharded_topk(queries: Tensor, corpus: Corpus, dims: Sequence[int], k: int) -> dict[int, Ranking]:
    """Returns the result of `prefix_topk`, to the last bit and on every rank. Every rank must call it with equal arguments.

    A shard consists of some of the blocks that a single process would search. Each matrix product is therefore the same, and the scores do
    not depend on the number of ranks. If the corpus has fewer blocks than there are ranks, each rank searches all of it, which takes less
    time than communication. Results are exchanged for one block of queries at a time, which bounds the memory.
    """
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks == 1 or len(corpus_blocks(len(queries), len(corpus), queries.device)) < ranks:
        return prefix_topk(queries, corpus, dims, k)
    rankings = prefix_topk(queries, corpus, dims, k, shard=(dist.get_rank(), ranks))
    for ranking in rankings.values():
        for start in range(0, len(queries), BLOCK_QUERIES):
            block = slice(start, start + BLOCK_QUERIES)
            # Shards are ordered by row and the sort is stable, so among equal scores the lower row stays first.
            scores, permutation = _gather_columns(ranking.scores[block]).sort(dim=1, descending=True, stable=True)
            k = ranking.scores.shape[1]
            ranking.indices[block] = _gather_columns(ranking.indices[block]).gather(1, permutation[:, :k])
            ranking.scores[block] = scores[:, :k]
    return rankings


def _gather_columns(local: Tensor) -> Tensor:
    """Gathers (queries, k) of each rank into (queries, ranks · k), in the order of the ranks."""
    moved = local.contiguous().cuda() if dist.get_backend() == "nccl" else local.contiguous()
    gathered = [torch.empty_like(moved) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, moved)
    return torch.cat(gathered, dim=1).to(local.device)
