"""Metrics of query segments (slices): which kinds of searches a model is good or bad at."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reelnest.evaluation.evaluation import Evaluation
from reelnest.evaluation.metrics import METRICS, charted_names, summarise
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.evaluation.significance import bootstrap_intervals

if TYPE_CHECKING:
    from reelnest.store.prepared import Prepared

SMALL = 30
"""Slices with fewer queries are marked, since their metrics are unreliable even where the interval is narrow."""

WORDS = (1, 2, 4, 8, 16)
RELEVANT_COUNTS = (1, 2, 4, 10)
SECONDS = (0, 5, 15, 60, 300)
"""The start of each bin; a bin ends where the next one starts."""
FIELD_VALUES = 20
"""How many of a field's values, the most frequent ones, have their own slice; the others share OTHER_VALUES."""
OTHER_VALUES, SEVERAL = "other", "several"
VALUE_LENGTH = 60

Value = tuple[int, str]
"""A slice's value, after its sort key."""


@dataclass(frozen=True)
class Slice:
    """The metrics of some of the queries at one dim."""

    name: str
    value: str
    dim: int
    queries: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    @property
    def is_small(self) -> bool:
        """Whether there are fewer than SMALL queries."""
        return self.queries < SMALL


def slices(
    evaluation: Evaluation, prepared: "Prepared", split: str, dims: Sequence[int], fields: Sequence[str], confidence: float
) -> list[Slice]:
    """Returns the metrics of each slice at each of `dims`, by exact float32 search. `dims` must have been evaluated.

    Queries are divided by pair kind; by direction (query → target as in the data, or target → query); by words of a text query; by the
    number of relevant items; by the length of the query video, or else the mean length of the relevant videos; and by the values of the
    video's `fields`, which are text fields or tags. A query without a property is in none of that property's slices.
    """
    sets = [retrieved.searched for retrieved in evaluation.retrieved]
    names = charted_names()
    medians = [metric for metric in names if METRICS[metric].reduce == "median"]
    results = []
    for name, labels in _labels(sets, prepared, split, fields).items():
        for value in sorted({label for label in labels if label is not None}):
            chosen = np.array([label == value for label in labels])
            for dim in dims:
                of_dim = [entry.values for entry in evaluation.by_query if entry.dim == dim]
                subset = {metric: np.concatenate([values[metric] for values in of_dim])[chosen] for metric in names}
                intervals = bootstrap_intervals(subset, confidence, medians=medians)
                results.append(Slice(name, value[1], dim, int(chosen.sum()), summarise(subset), intervals))
    return results


def query_slices(evaluation: Evaluation, prepared: "Prepared", split: str, fields: Sequence[str]) -> dict[str, list[tuple[str, ...]]]:
    """Returns the names of each query's slices by pair kind, such as `query words: 2-3`, in the order of the set's queries."""
    sets = [retrieved.searched for retrieved in evaluation.retrieved]
    labels = _labels(sets, prepared, split, fields)
    named = [
        tuple(f"{name}: {label[1]}" for name, label in zip(labels, of_query, strict=True) if label)
        for of_query in zip(*labels.values(), strict=True)
    ]
    ends = np.cumsum([0, *(len(searched.queries) for searched in sets)]).tolist()
    return {searched.pair_kind: named[start:end] for searched, start, end in zip(sets, ends, ends[1:], strict=False)}


def _labels(sets: Sequence[RetrievalSet], prepared: "Prepared", split: str, fields: Sequence[str]) -> dict[str, list[Value | None]]:
    """Returns the value of each query by slice, over all sets, one after the other; None for a query without one."""
    pairs = prepared.pairs(split)
    written = set(zip(pairs.queries.tolist(), pairs.targets.tolist(), strict=True))
    labels: dict[str, list[Value | None]] = {
        name: [] for name in ("pair kind", "direction", "query words", "relevant items", "video seconds")
    }
    texts: dict[str, list[str | None]] = {name: [] for name in fields}
    for place, searched in enumerate(sets):
        for query in searched.queries.tolist():
            item, right = prepared.item(query), searched.qrels[query]
            is_forward = any((query, target) in written for target in right)
            labels["pair kind"].append((place, searched.pair_kind))
            labels["direction"].append((0, "query → target") if is_forward else (1, "target → query"))
            labels["query words"].append(_bin(len(item.key.split()), WORDS) if item.kind == "text" else None)
            labels["relevant items"].append(_bin(len(right), RELEVANT_COUNTS))
            videos = [query] if item.kind == "video" else list(right) if searched.target_kind == "video" else []
            seconds = [prepared.seconds(video) for video in videos]
            labels["video seconds"].append(_bin(float(np.mean(seconds)), SECONDS, " s") if seconds else None)
            for name in fields:
                values = {dict(item.fields + item.tags).get(name) for item in map(prepared.item, videos)} - {None}
                texts[name].append(None if not values else values.pop() if len(values) == 1 else SEVERAL)
    return labels | {name: _frequent(values) for name, values in texts.items()}


def _bin(number: float, starts: Sequence[int], unit: str = "") -> Value:
    """Returns the bin of a number: `2-3` for integers, `5-15 s` (end excluded) for others."""
    place = int(np.searchsorted(starts, number, side="right")) - 1
    start = starts[max(place, 0)]
    if place == len(starts) - 1:
        return place, f"{start}{unit}+"
    last = starts[max(place, 0) + 1] - (0 if unit else 1)
    return place, f"{start}{unit}" if last == start else f"{start}-{last}{unit}"


def _frequent(values: Sequence[str | None]) -> list[Value | None]:
    """Returns the most frequent values, cut to VALUE_LENGTH characters; OTHER_VALUES for the rest."""
    shortened = [None if value is None else value[:VALUE_LENGTH] for value in values]
    counts = Counter(value for value in shortened if value is not None)
    places = {value: place for place, (value, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:FIELD_VALUES])}
    return [None if value is None else (places[value], value) if value in places else (FIELD_VALUES, OTHER_VALUES) for value in shortened]
