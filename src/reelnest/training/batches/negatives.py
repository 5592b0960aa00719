"""The extra negatives of each pair, and their periodic renewal."""

import logging
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
from reelnest.training.distributed import world

log = logging.getLogger(__name__)


class ExtraNegatives:
    """A table of each pair's listed and mined negatives, constant between two renewals.

    A call with a pair's row number returns its items, (up to negatives_per_pair,) int64. Between renewals the result depends only on the
    row, so all processes know all negatives of a batch, and the prefetch thread may call it at any time.
    """

    def __init__(self, prepared: Prepared, pairs: Pairs, encoder: Encoder, batcher: Batcher, params: Params, steps_per_epoch: int) -> None:
        """Searches use the last of `params.model.dims`."""
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
        # With equal instructions an item is encoded once for both roles.
        self._roles_differ = params.model.query_instruction != params.model.target_instruction
        self._items: Indices = np.unique(np.concatenate([pairs.queries, pairs.targets]))
        self._table: Indices = np.empty((len(pairs), 0), dtype=np.int64)
        self._renewed_at = NONE
        self._warned = False

    def __call__(self, row: int) -> Indices:
        """Returns the pair's current extra negatives."""
        items: Indices = self._table[row]
        return items[items != NONE]

    def steps_until_renewal(self, step: int) -> int:
        """Returns the number of steps from `step` on with the current table; 0 if a renewal is due."""
        if self._renewed_at == NONE or (step != self._renewed_at and (step % self._every == 0 or step == self._first_mined)):
            return 0
        upcoming = (step // self._every + 1) * self._every
        return (min(upcoming, self._first_mined) if step < self._first_mined else upcoming) - step

    def renew(self, step: int) -> dict[str, float]:
        """Builds the table for the steps from `step` on, and returns metrics. Every process calls it and gets the same table."""
        count = self._settings.negatives_per_pair
        table = np.full((len(self._pairs), count), NONE, dtype=np.int64)
        listed = None if self._settings.listed == "never" else tuple(map(self._listed_negatives, range(len(self._pairs))))
        if listed is not None:
            random = np.random.default_rng([self._seed, step])
            for row, negatives in enumerate(listed):
                chosen = random.permutation(negatives)[:count] if len(negatives) > count else negatives
                table[row, : len(chosen)] = chosen
        figures: dict[str, float] = {}
        if self._settings.mines and step >= self._first_mined:
            mined = mine(self._prepared, self._pairs, self._embedded(), self._settings, excluded=listed, seed=self._seed, step=step)
            # Listed negatives come first; mined ones fill the remaining columns.
            joined = np.concatenate([table, mined.items], axis=1)
            table = np.take_along_axis(joined, np.argsort(joined == NONE, axis=1, kind="stable"), axis=1)[:, :count]
            figures["mining/margin"] = mined.margin
        if step >= self._first_mined or not self._settings.mines:
            self._warn_of_none(table)
        figures["mining/negatives_per_pair"] = float((table != NONE).sum() / len(table))
        self._table, self._renewed_at = table, step
        return figures

    def _warn_of_none(self, table: Indices) -> None:
        """Warns once, on the main process, of settings with which no pair has an extra negative."""
        if self._warned or world()[0] or (table != NONE).any():
            return
        self._warned = True
        advice = "No train pair lists negatives: set mining.listed to first"
        if self._settings.mines:
            advice = "Lower the first of mining.ranks, or raise mining.relative_margin if it is set"
        log.warning("mining: no pair has an extra negative, so mining.negatives_per_pair has no effect. %s.", advice)

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: a resumed training needs the negatives that earlier weights mined."""
        return {"table": torch.from_numpy(self._table), "renewed_at": self._renewed_at}

    def load_state(self, state: dict[str, Any]) -> None:
        """Loads the result of `state`."""
        self._table, self._renewed_at = state["table"].numpy(), state["renewed_at"]

    def _listed_negatives(self, row: int) -> Indices:
        """Returns the pair's listed negatives, without items that another pair marks as relevant to the query."""
        negatives, query = self._pairs.negatives[row], int(self._pairs.queries[row])
        if len(negatives) == 0:
            return negatives
        return negatives[~np.isin(negatives, np.append(self._prepared.related(query), query))]

    def _embedded(self) -> ItemVectors:
        """Returns vectors of all items as queries and as targets. With equal instructions each item is encoded once."""
        no_items = np.empty(0, dtype=np.int64)
        queried = np.unique(self._pairs.queries) if self._roles_differ else no_items
        entries = ItemEntries(self._prepared, queried, self._items)
        vectors = embed(self._encoder, self._batcher, entries, self._settings.batch_size, "embed for mining")[:, : self._dim]
        targets = vectors[len(queried) :]
        queries = targets
        if self._roles_differ:
            queries = torch.zeros_like(targets)
            queries[torch.from_numpy(np.searchsorted(self._items, queried))] = vectors[: len(queried)]
        return ItemVectors(self._items, queries, targets, self._encoder.device)
