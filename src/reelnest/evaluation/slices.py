"""Figures of parts of the queries: which kinds of searches a model is good at, and which it is not."""

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
"""With fewer queries a slice's figure says little, however narrow its interval: it is marked."""

WORDS = (1, 2, 4, 8, 16)
RELEVANT_COUNTS = (1, 2, 4, 10)
SECONDS = (0, 5, 15, 60, 300)
"""Where each part begins; it ends where the next one begins."""
FIELD_VALUES = 20
"""Of a field's values the most frequent ones are told apart; the rest is OTHER."""
OTHER, SEVERAL = "other", "several"
VALUE_LENGTH = 60

Value = tuple[int, str]
"""A slice's value with its place among the others."""


@dataclass(frozen=True)
class Slice:
    """Some of the queries, at one dim."""

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
    """Each slice's figures, exact float32 search, at each of `dims` that were evaluated.

    Queries are divided by pair kind; by direction (asked as the pair is written, or turned round); by words of a text query; by the number
    of right answers; by the length of the video that is asked with, or else of those that are right (their mean); and by the values of the
    video's `fields`, which are text fields or tags. A query that has no such property is in none of its slices.
    """
    sets = [retrieved.searched for retrieved in evaluation.retrieved]
    names = charted_names()
    medians = [metric for metric in names if METRICS[metric].reduce == "median"]
    found = []
    for name, labels in _labels(sets, prepared, split, fields).items():
        for value in sorted({label for label in labels if label is not None}):
            chosen = np.array([label == value for label in labels])
            for dim in dims:
                of_dim = [one.values for one in evaluation.by_query if one.dim == dim]
                part = {metric: np.concatenate([values[metric] for values in of_dim])[chosen] for metric in names}
                intervals = bootstrap_intervals(part, confidence, medians=medians)
                found.append(Slice(name, value[1], dim, int(chosen.sum()), summarise(part), intervals))
    return found


def query_slices(evaluation: Evaluation, prepared: "Prepared", split: str, fields: Sequence[str]) -> dict[str, list[tuple[str, ...]]]:
    """By pair kind, the slices of each query in the order of its set, such as `query words: 2-3`: to find a query's like."""
    sets = [retrieved.searched for retrieved in evaluation.retrieved]
    labels = _labels(sets, prepared, split, fields)
    named = [
        tuple(f"{name}: {label[1]}" for name, label in zip(labels, of_query, strict=True) if label)
        for of_query in zip(*labels.values(), strict=True)
    ]
    ends = np.cumsum([0, *(len(searched.queries) for searched in sets)]).tolist()
    return {searched.pair_kind: named[start:end] for searched, start, end in zip(sets, ends, ends[1:], strict=False)}


def _labels(sets: Sequence[RetrievalSet], prepared: "Prepared", split: str, fields: Sequence[str]) -> dict[str, list[Value | None]]:
    """By slice, the value of each query of all sets, one set after the other; None for one that has none."""
    pairs = prepared.pairs(split)
    written = set(zip(pairs.queries.tolist(), pairs.targets.tolist(), strict=True))
    found: dict[str, list[Value | None]] = {
        name: [] for name in ("pair kind", "direction", "query words", "right answers", "video seconds")
    }
    texts: dict[str, list[str | None]] = {name: [] for name in fields}
    for place, searched in enumerate(sets):
        for query in searched.queries.tolist():
            item, right = prepared.item(query), searched.qrels[query]
            as_written = any((query, answer) in written for answer in right)
            found["pair kind"].append((place, searched.pair_kind))
            found["direction"].append((0, "as written") if as_written else (1, "turned round"))
            found["query words"].append(_part(len(item.key.split()), WORDS) if item.kind == "text" else None)
            found["right answers"].append(_part(len(right), RELEVANT_COUNTS))
            videos = [query] if item.kind == "video" else list(right) if searched.target_kind == "video" else []
            seconds = [prepared.seconds(video) for video in videos]
            found["video seconds"].append(_part(float(np.mean(seconds)), SECONDS, " s") if seconds else None)
            for name in fields:
                values = {dict(item.fields + item.tags).get(name) for item in map(prepared.item, videos)} - {None}
                texts[name].append(None if not values else values.pop() if len(values) == 1 else SEVERAL)
    return found | {name: _frequent(values) for name, values in texts.items()}


def _part(number: float, starts: Sequence[int], unit: str = "") -> Value:
    """The part that a number falls into: `2-3` of whole numbers, `5-15 s` of others, without the end."""
    place = int(np.searchsorted(starts, number, side="right")) - 1
    start = starts[max(place, 0)]
    if place == len(starts) - 1:
        return place, f"{start}{unit}+"
    last = starts[max(place, 0) + 1] - (0 if unit else 1)
    return place, f"{start}{unit}" if last == start else f"{start}-{last}{unit}"


def _frequent(values: Sequence[str | None]) -> list[Value | None]:
    """The most frequent ones, cut to VALUE_LENGTH, and OTHER."""
    shown = [None if value is None else value[:VALUE_LENGTH] for value in values]
    counts = Counter(value for value in shown if value is not None)
    places = {value: place for place, (value, _) in enumerate(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:FIELD_VALUES])}
    return [None if value is None else (places[value], value) if value in places else (FIELD_VALUES, OTHER) for value in shown]
