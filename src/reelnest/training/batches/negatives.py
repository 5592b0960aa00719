"""Which extra negatives each pair brings into its batch, and when they are looked for anew."""

from typing import Any

import numpy as np
import torch

from reelnest.encoder.batches import Batcher
from reelnest.encoder.embedding import embed
from reelnest.encoder.encoder import Encoder
from reelnest.evaluation.split_evaluation import ItemEntries
from reelnest.settings import Params
from reelnest.store.prepared import Indices, Pairs, Prepared
from reelnest.training.batches.mining import NONE, ItemVectors, mine


class ExtraNegatives:
    """A table of each pair's negatives, listed and mined, that stays as it is from one renewal to the next.

    Called with the row number of a pair, it gives the items: (up to negatives_per_pair,) int64. Between renewals that is a function of the
    row alone, so all processes know all negatives of a batch, and the thread that makes batches ahead may ask at any time.
    """

    def __init__(self, prepared: Prepared, pairs: Pairs, encoder: Encoder, batcher: Batcher, params: Params, steps_per_epoch: int) -> None:
        """Items are searched at the last of `params.model.dims`."""
        settings = params.mining
        self._prepared = prepared
        self._pairs = pairs
        self._encoder = encoder
        self._batcher = batcher
        self._settings = settings
        self._every = settings.every_steps or steps_per_epoch
        self._first_mined = settings.start_epoch * steps_per_epoch
        self._seed = params.train.seed
        self._dim = params.model.dims[-1]
        # Otherwise an item reads alike as query and as target, and is encoded once.
        self._roles_differ = params.model.query_instruction != params.model.target_instruction
        self._items: Indices = np.unique(np.concatenate([pairs.queries, pairs.targets]))
        self._table: Indices = np.empty((len(pairs), 0), dtype=np.int64)
        self._renewed_at = NONE

    def __call__(self, row: int) -> Indices:
        """The pair's extra negatives, for now."""
        items: Indices = self._table[row]
        return items[items != NONE]

    def steps_until_renewal(self, step: int) -> int:
        """Steps from `step` on that still use the present table; 0 where it is due now."""
        if self._renewed_at == NONE or (step != self._renewed_at and (step % self._every == 0 or step == self._first_mined)):
            return 0
        upcoming = (step // self._every + 1) * self._every
        return (min(upcoming, self._first_mined) if step < self._first_mined else upcoming) - step

    def renew(self, step: int) -> dict[str, float]:
        """Makes the table that holds from `step` on, and gives figures about it. Every process calls it, and each gets the same table."""
        count = self._settings.negatives_per_pair
        table = np.full((len(self._pairs), count), NONE, dtype=np.int64)
        listed = None if self._settings.listed == "never" else tuple(map(self._wrong, range(len(self._pairs))))
        if listed is not None:
            random = np.random.default_rng([self._seed, step])
            for row, negatives in enumerate(listed):
                chosen = random.permutation(negatives)[:count] if len(negatives) > count else negatives
                table[row, : len(chosen)] = chosen
        figures: dict[str, float] = {}
        if self._settings.mines and step >= self._first_mined:
            mined = mine(self._prepared, self._pairs, self._embedded(), self._settings, excluded=listed, seed=self._seed, step=step)
            # What is listed stays; what is mined takes the places that are left.
            joined = np.concatenate([table, mined.items], axis=1)
            table = np.take_along_axis(joined, np.argsort(joined == NONE, axis=1, kind="stable"), axis=1)[:, :count]
            figures["mining/margin"] = mined.margin
        figures["mining/negatives_per_pair"] = float((table != NONE).sum() / len(table))
        self._table, self._renewed_at = table, step
        return figures

    def state(self) -> dict[str, Any]:
        """For a checkpoint: a resumed training must see the negatives that the weights of an earlier step chose."""
        return {"table": torch.from_numpy(self._table), "renewed_at": self._renewed_at}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts `state` back."""
        self._table, self._renewed_at = state["table"].numpy(), state["renewed_at"]

    def _wrong(self, row: int) -> Indices:
        """The pair's listed negatives, without those that another pair says are relevant."""
        negatives, query = self._pairs.negatives[row], int(self._pairs.queries[row])
        if len(negatives) == 0:
            return negatives
        return negatives[~np.isin(negatives, np.append(self._prepared.related(query), query))]

    def _embedded(self) -> ItemVectors:
        """Vectors of all items as queries and as targets. Items that read alike in both roles are encoded once."""
        nothing = np.empty(0, dtype=np.int64)
        queried = np.unique(self._pairs.queries) if self._roles_differ else nothing
        entries = ItemEntries(self._prepared, queried, self._items)
        vectors = embed(self._encoder, self._batcher, entries, self._settings.batch_size, "embed for mining")[:, : self._dim]
        targets = vectors[len(queried) :]
        queries = targets
        if self._roles_differ:
            queries = torch.zeros_like(targets)
            queries[torch.from_numpy(np.searchsorted(self._items, queried))] = vectors[: len(queried)]
        return ItemVectors(self._items, queries, targets, self._encoder.device)
