"""Looks up which results of a search are relevant."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelnest.errors import DataError
from reelnest.evaluation.metrics import Hits, Relevance
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.search.topk import Ranking, query_blocks

IGNORED = -1.0


@dataclass(frozen=True)
class LabelledResults:
    """The results of each query without ignored items, best first."""

    rows: NDArray[np.int64]  # (queries, at most the depth), rows of the corpus
    scores: NDArray[np.float32]  # the same shape
    lengths: NDArray[np.int64]  # (queries,), how many entries of a row count; ignored items come after them
    hits: Hits


class Qrels:
    """The relevant items of a retrieval set, looked up for any number of rankings."""

    def __init__(self, searched: RetrievalSet) -> None:
        """Raises DataError for a query without a relevant item, and for relevant items that are not in the corpus."""
        self._corpus = len(searched.corpus)
        queries = searched.queries.tolist()
        without = [query for query in queries if not searched.qrels.get(query)]
        if without:
            raise DataError(
                f"{searched.pair_kind}: {len(without)} of {len(queries)} queries have no relevant item (the first is item {without[0]}), "
                "so they have no metrics. Remove these queries, or add their targets to data/pairs.jsonl."
            )
        self.relevance = Relevance.of([list(searched.qrels[query].values()) for query in queries])
        places = np.repeat(np.arange(len(queries)), self.relevance.counts)
        items = np.array([item for query in queries for item in searched.qrels[query]], dtype=np.int64)
        grades = np.array([grade for query in queries for grade in searched.qrels[query].values()])
        missing = items[~np.isin(items, searched.corpus)]
        if len(missing):
            raise DataError(
                f"{searched.pair_kind}: {len(missing)} relevant items are not in the corpus (the first is item {missing[0]}), "
                "so no search can find them. Add them: a corpus must hold all relevant items of its queries."
            )
        ignored = [searched.ignored.get(query, searched.corpus[:0]) for query in queries]
        lengths = [len(of_query) for of_query in ignored]
        self.most_ignored = max(lengths, default=0)
        """How many more results each query needs, so that enough are left without the ignored items."""
        self._places = np.concatenate([places, np.repeat(np.arange(len(queries)), lengths)])
        self._rows = np.searchsorted(searched.corpus, np.concatenate([items, *ignored]))
        self._grades = np.concatenate([grades, np.full(sum(lengths), IGNORED)])
        by_query = np.argsort(self._places, kind="stable")
        self._places, self._rows, self._grades = self._places[by_query], self._rows[by_query], self._grades[by_query]

    def label(self, ranking: Ranking, depth: int) -> LabelledResults:
        """Labels the first `depth` results of each query that are not ignored."""
        rows, scores = ranking.indices.cpu().numpy(), ranking.scores.cpu().numpy()
        grades = self._grades_of(rows)
        lengths = np.full(len(rows), min(rows.shape[1], depth))
        if self.most_ignored:
            counted_first = np.argsort(grades < 0, axis=1, kind="stable")
            rows, scores, grades = (np.take_along_axis(array, counted_first, axis=1) for array in (rows, scores, grades))
            lengths = np.minimum((grades >= 0).sum(axis=1), depth)
        query, place = np.nonzero(grades[:, :depth] > 0)
        return LabelledResults(rows[:, :depth], scores[:, :depth], lengths, Hits(query, place + 1, grades[query, place]))

    def _grades_of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the grade of each result: 0 if it is not relevant, IGNORED if it does not count."""
        grades = np.empty(rows.shape)
        blocks = query_blocks(len(rows), self._corpus)
        table = np.zeros((max((block.stop - block.start for block in blocks), default=0), self._corpus))
        for block in blocks:
            known = slice(*np.searchsorted(self._places, [block.start, block.stop]))
            places, columns = self._places[known] - block.start, self._rows[known]
            table[places, columns] = self._grades[known]
            grades[block] = np.take_along_axis(table[: block.stop - block.start], rows[block], axis=1)
            table[places, columns] = 0
        return grades
