"""Exact search shared by the processes of a launch: each searches a part of the corpus, and all get all answers."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from reelnest.search.storage import Corpus
from reelnest.search.topk import BLOCK_QUERIES, Ranking, corpus_blocks, prefix_topk


def sharded_topk(queries: Tensor, corpus: Corpus, dims: Sequence[int], k: int) -> dict[int, Ranking]:
    """What `prefix_topk` gives, to the last bit and on every rank; every rank has to call it, with equal arguments.

    A part of the corpus is some of the blocks that one process would go through, so each product is made of the same numbers, and however
    many ranks there are, the scores are equal. A corpus with fewer blocks than ranks is searched by each rank alone: that takes less time
    than telling each other. Answers are exchanged for a block of queries at a time, which bounds the memory.
    """
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks == 1 or len(corpus_blocks(len(queries), len(corpus))) < ranks:
        return prefix_topk(queries, corpus, dims, k)
    own = prefix_topk(queries, corpus, dims, k, part=(dist.get_rank(), ranks))
    for ranking in own.values():
        for start in range(0, len(queries), BLOCK_QUERIES):
            block = slice(start, start + BLOCK_QUERIES)
            # Parts stand in the order of their rows, and the sort is stable: of equal scores the lower row stays first.
            scores, order = _side_by_side(ranking.scores[block]).sort(dim=1, descending=True, stable=True)
            k = ranking.scores.shape[1]
            ranking.indices[block] = _side_by_side(ranking.indices[block]).gather(1, order[:, :k])
            ranking.scores[block] = scores[:, :k]
    return own


def _side_by_side(local: Tensor) -> Tensor:
    """(queries, k) of each rank as (queries, ranks · k), in the order of the ranks."""
    moved = local.contiguous().cuda() if dist.get_backend() == "nccl" else local.contiguous()
    parts = [torch.empty_like(moved) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, moved)
    return torch.cat(parts, dim=1).to(local.device)
