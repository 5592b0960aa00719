"""Evaluates filters over the table of a folder's index."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reelnest.records.formats import TEXT_FIELDS
from reelnest.search.filters import COMPARISONS, All, AnyOf, Compare, Filter, Not, OneOf, number_of

MOST_FILTERS = 16
"""Filters whose selected rows are remembered, the last used."""


@dataclass(frozen=True, eq=False)
class _Column:
    """A field of all videos: the distinct texts, and the number of each video's; -1 without the field."""

    texts: list[str]
    numbers: NDArray[np.int64]

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The texts as numbers; NaN for those that are none."""
        return np.array([number_of(text) for text in self.texts], np.float64)

    def where(self, holds: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns the videos whose text satisfies a comparison, given the texts that do."""
        return np.append(holds, False)[self.numbers]


class TableFilter:
    """Filters over the rows of a `videos.parquet`. Columns and results are kept, because a page asks for the same ones again."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._columns: dict[str, _Column] = {}
        self._selected: dict[Filter, NDArray[np.int64]] = {}

    def rows(self, condition: Filter) -> NDArray[np.int64]:
        """Returns the numbers of the rows that satisfy a filter, rising."""
        rows = self._selected.pop(condition, None)
        if rows is None:
            rows = np.flatnonzero(self._holds(condition))
        self._selected[condition] = rows
        for oldest in list(self._selected)[:-MOST_FILTERS]:
            self._selected.pop(oldest, None)
        return rows

    def _holds(self, condition: Filter) -> NDArray[np.bool_]:
        match condition:
            case Not(inner):
                return ~self._holds(inner)
            case All(conditions):
                return np.logical_and.reduce([self._holds(inner) for inner in conditions])
            case AnyOf(conditions):
                return np.logical_or.reduce([self._holds(inner) for inner in conditions])
            case OneOf(field, values):
                column = self._column(field)
                if isinstance(values[0], str):
                    return column.where(np.array([text in values for text in column.texts], bool))
                return column.where(np.isin(column.values, values))
            case Compare(field, sign, value):
                column, compare = self._column(field), COMPARISONS[sign]
                if isinstance(value, str):
                    return column.where(np.array([compare(text, value) for text in column.texts], bool))
                return column.where(compare(column.values, value))

    def _column(self, name: str) -> _Column:
        if name not in self._columns:
            self._columns[name] = self._read(name)
        return self._columns[name]

    def _read(self, name: str) -> _Column:
        numbers = np.full(len(self._table), -1, np.int64)
        if name == "video_id":
            texts = self._table["video_id"].combine_chunks()
            rows: NDArray[np.int64] = np.arange(len(texts))
        else:
            listed = self._table["fields" if name in TEXT_FIELDS else "tags"].combine_chunks()
            selected = pc.equal(listed.flatten().field("name"), name)
            texts = listed.flatten().field("text").filter(selected)
            rows = pc.list_parent_indices(listed).filter(selected).to_numpy(zero_copy_only=False)
        encoded = texts.dictionary_encode()
        numbers[rows] = encoded.indices.to_numpy(zero_copy_only=False)
        return _Column(encoded.dictionary.to_pylist(), numbers)
