"""Retrieval quality of an encoder on a split, for validation during training and for the evaluation stage."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reelnest.encoder.batches import Batcher
from reelnest.encoder.embedding import embed
from reelnest.encoder.encoder import Encoder
from reelnest.errors import ModelError
from reelnest.evaluation.evaluation import Evaluation, Vectors, evaluate_vectors
from reelnest.evaluation.retrieval_sets import RetrievalSet, retrieval_sets
from reelnest.store.entries import Entry, Role
from reelnest.store.prepared import Prepared

LONGEST_QUOTE = 100
"""Characters of a text in an error."""


@dataclass(frozen=True)
class EmbeddedSplit:
    """The retrieval sets of a split and the vectors that they need."""

    sets: list[RetrievalSet]
    queries: Vectors
    targets: Vectors

    def evaluate(self, dims: Sequence[int], depth: int, confidence: float | None = None) -> Evaluation:
        """See `evaluate_vectors`."""
        return evaluate_vectors(self.sets, self.queries, self.targets, dims, depth, confidence)


def embed_split(prepared: Prepared, split: str, encoder: Encoder, batcher: Batcher, batch_size: int) -> EmbeddedSplit:
    """Encodes each item of a split once per role (query, target). The ranks share the work, and each gets all vectors.

    Every rank must call this. Raises ModelError, which names the item, for vectors with NaN or infinity.
    """
    sets = retrieval_sets(prepared, split)
    queries = _union([searched.queries for searched in sets])
    targets = _union([searched.corpus for searched in sets])
    entries = ItemEntries(prepared, queries, targets)
    if not len(entries):
        nothing = Vectors(queries, torch.empty(0, 1))
        return EmbeddedSplit(sets, nothing, nothing)
    vectors = embed(encoder, batcher, entries, batch_size, f"embed {split}")  # (queries + targets, width)
    _check_numbers(vectors, entries)
    return EmbeddedSplit(sets, Vectors(queries, vectors[: len(queries)]), Vectors(targets, vectors[len(queries) :]))


def evaluate_split(
    prepared: Prepared, split: str, encoder: Encoder, batcher: Batcher, dims: Sequence[int], batch_size: int, depth: int
) -> Evaluation:
    """Encodes a split and searches it at each dim. Every rank must call this, and each returns the same.

    For a split without pairs, `value` of the Evaluation returns None. Raises ModelError for vectors with NaN or infinity.
    """
    return embed_split(prepared, split, encoder, batcher, batch_size).evaluate(dims, depth)


class ItemEntries(Sequence[Entry]):
    """Queries, then targets, read from the frame store on access."""

    def __init__(self, prepared: Prepared, queries: np.ndarray, targets: np.ndarray) -> None:
        self._prepared = prepared
        self._queries = queries
        self._targets = targets

    def __len__(self) -> int:
        return len(self._queries) + len(self._targets)

    def __getitem__(self, at: int) -> Entry:  # type: ignore[override]  # a data set by number, as the base class's is not
        return self._prepared.entry(*self._item_and_role(at))

    def named(self, at: int) -> str:
        """Returns the item as an error message names it, such as `query "a red ball"`."""
        index, role = self._item_and_role(at)
        return f'{role} "{self._prepared.item(index).key[:LONGEST_QUOTE]}"'

    def _item_and_role(self, at: int) -> tuple[int, Role]:
        if not 0 <= at < len(self):
            raise IndexError(at)
        role: Role = "query" if at < len(self._queries) else "target"
        items, offset = (self._queries, 0) if role == "query" else (self._targets, len(self._queries))
        return int(items[at - offset]), role


def _check_numbers(vectors: Tensor, entries: ItemEntries) -> None:
    bad = (~torch.isfinite(vectors).all(dim=1)).nonzero().squeeze(1).tolist()
    if bad:
        raise ModelError(
            f"{len(bad)} of {len(vectors)} vectors contain NaN or infinity; the first is that of {entries.named(bad[0])}. Training has "
            "diverged, or the weights are damaged. Check the loss in reports/training.csv, and try a lower train.learning_rate."
        )


def _union(items: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(items)) if items else np.empty(0, dtype=np.int64)
