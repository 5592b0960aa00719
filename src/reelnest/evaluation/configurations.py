"""The configurations that an index can have (dim, storage type and funnel), and the quality, size and speed of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from torch import Tensor

from reelnest.errors import ConfigError
from reelnest.evaluation.evaluation import ALL, Evaluation, QueryMetrics, Vectors, summaries
from reelnest.evaluation.metrics import ScoredQueries, query_metrics
from reelnest.evaluation.relevance import LabelledResults, Qrels
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.evaluation.speed import Speed, seconds_per_query
from reelnest.search.binary import BinaryVectors
from reelnest.search.funnel import funnel_topk
from reelnest.search.storage import Corpus, prefix, sign_bits, stored
from reelnest.search.storage_types import STORAGE_TYPES, bytes_per_vector, index_bytes
from reelnest.search.topk import Ranking, prefix_topk
from reelnest.settings import Evaluate, Storage

Figures: TypeAlias = tuple[dict[str, dict[str, float]], dict[str, dict[str, tuple[float, float]]]]
"""By pair kind, the metrics and their intervals."""
Search: TypeAlias = Callable[[Tensor, int], Ranking]
"""The best k results of some queries, (queries, width)."""


@dataclass(frozen=True)
class Configuration:
    """One way to store and search vectors."""

    dim: int
    """How many dimensions of each vector are stored; for a funnel its last dim."""
    storage: Storage = "float32"
    funnel: tuple[int, ...] = ()
    """Rising dims; empty for a single search at `dim`."""
    shortlists: tuple[int, ...] = ()
    """Shortlist lengths of the funnel, or of binary search."""

    @property
    def name(self) -> str:
        """Such as `256`, `256 int8`, `funnel 16→128`, `funnel 16→128 int8`."""
        dims = f"funnel {'→'.join(map(str, self.funnel))}" if self.funnel else str(self.dim)
        return dims if self.storage == "float32" else f"{dims} {self.storage}"

    @property
    def dims(self) -> tuple[int, ...]:
        """Every dim that is compared."""
        return self.funnel or (self.dim,)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a stored vector. The shorter prefixes of a funnel are part of it and take no extra space."""
        return bytes_per_vector(self.dim, self.storage)

    def index_bytes(self, videos: int) -> int:
        """Returns bytes of an index of `videos` videos."""
        return index_bytes(videos, self.dim, self.storage)

    @property
    def is_exact(self) -> bool:
        """Whether every vector is compared at the full `dim`; a longer result list then costs nothing."""
        return not self.funnel and not _holds_signs(self.storage)


@dataclass(frozen=True)
class Measured:
    """A configuration and its measurements."""

    configuration: Configuration
    metrics: dict[str, dict[str, float]]
    """By pair kind, `all` last. Metrics that need the best ranks exist only for exact float32 search."""
    intervals: dict[str, dict[str, tuple[float, float]]]
    by_query: tuple[QueryMetrics, ...] = field(repr=False)
    speed: Speed

    @property
    def above_negatives(self) -> float | None:
        """Share of the queries with listed negatives whose best relevant item ranks above all of them; None if no query lists any."""
        listing = sum(len(entry.searched.negatives) for entry in self.by_query)
        return sum(entry.above_negatives for entry in self.by_query) / listing if listing else None


def configurations(dims: Sequence[int], settings: Evaluate) -> list[Configuration]:
    """Returns the configurations that the settings name, for rising `dims`. Raises ConfigError for a funnel that ends above them."""
    listed = [
        Configuration(dim, storage, shortlists=(settings.shortlist,) if _holds_signs(storage) else ())
        for storage in dict.fromkeys(settings.storage)
        for dim in dims
    ]
    schedules: list[tuple[tuple[int, ...], tuple[int, ...]]] = [(funnel.dims, funnel.shortlists) for funnel in settings.funnels or ()]
    if settings.funnels is None and len(dims) > 1:
        schedules = [((dims[0], dims[-1]), (settings.shortlist,))]
    for funnel, shortlists in schedules:
        if funnel[-1] > dims[-1]:
            raise ConfigError(
                f"params.yaml: evaluate.funnels: a funnel ends at dim {funnel[-1]}, but this model's vectors have {dims[-1]} dimensions. "
                f"End it at {dims[-1]} or below."
            )
        by_cosine = [storage for storage in dict.fromkeys(settings.storage) if not _holds_signs(storage)]
        listed += [Configuration(funnel[-1], storage, funnel, shortlists) for storage in by_cosine]
    return list(dict.fromkeys(listed))


def measure(
    candidates: Sequence[Configuration], evaluation: Evaluation, queries: Vectors, targets: Vectors, depth: int, confidence: float
) -> list[Measured]:
    """Measures the quality and speed of each configuration on the retrieval sets of `evaluation`.

    Storage types are calibrated on the corpus of each set. Exact search scans the corpus once for all dims; the results of exact float32
    search come from `evaluation`, which must have been made from the same `queries`, `targets` and `depth`.
    """
    measured: dict[Configuration, list[QueryMetrics]] = {candidate: [] for candidate in candidates}
    seconds = {candidate: np.zeros(3) for candidate in candidates}
    for retrieved in evaluation.retrieved:
        searched = retrieved.searched
        qrels = Qrels(searched)
        query_vectors, corpus = queries.of(searched.queries), targets.of(searched.corpus)
        storages = {candidate.storage for candidate in candidates}
        codes = {codes for storage in storages if (codes := STORAGE_TYPES[storage].codes) is not None}
        corpora = {storage: stored(corpus, storage) for storage in storages | codes if not _holds_signs(storage)}
        rankings = _exact_rankings(candidates, query_vectors, corpora, depth + qrels.most_ignored)
        for candidate in candidates:
            search = _search(candidate, corpus, corpora)
            seconds[candidate] += len(query_vectors) * seconds_per_query(search, query_vectors)
            if candidate in rankings or not candidate.is_exact:
                ranking = rankings[candidate] if candidate in rankings else search(query_vectors, depth + qrels.most_ignored)
                labelled = qrels.label(ranking, depth)
                values = query_metrics(ScoredQueries(labelled.hits, qrels.relevance))
                above = _above_negatives(searched, labelled)
                measured[candidate].append(QueryMetrics(searched, candidate.dim, values, above_negatives=above))
            else:
                measured[candidate] += [
                    by_query for by_query in evaluation.by_query if by_query.searched is searched and by_query.dim == candidate.dim
                ]
    figures = _figures(measured, evaluation, confidence)
    total = sum(len(retrieved.searched.queries) for retrieved in evaluation.retrieved)
    return [
        Measured(candidate, *figures[candidate], tuple(measured[candidate]), Speed.of(total, seconds[candidate]))
        for candidate in candidates
    ]


def _above_negatives(searched: RetrievalSet, labelled: LabelledResults) -> int:
    """Counts the queries whose best relevant item ranks above all of their listed negatives. An item that is not a result ranks below."""
    query, first = np.unique(labelled.hits.query, return_index=True)
    best = dict(zip(query.tolist(), labelled.hits.rank[first].tolist(), strict=True))
    above = 0
    for item, negatives in searched.negatives.items():
        place = int(np.searchsorted(searched.queries, item))
        higher = labelled.rows[place, : best.get(place, 0)]
        above += place in best and not np.isin(searched.corpus[higher], negatives).any()
    return above


def _holds_signs(storage: Storage) -> bool:
    return STORAGE_TYPES[storage].store is None


def _exact_rankings(
    candidates: Sequence[Configuration], queries: Tensor, corpora: dict[Storage, Corpus], k: int
) -> dict[Configuration, Ranking]:
    """Returns rankings of the exact configurations other than float32, in one pass for each storage type."""
    rankings: dict[Configuration, Ranking] = {}
    for storage, corpus in corpora.items():
        exact = {candidate.dim: candidate for candidate in candidates if candidate.is_exact and candidate.storage == storage != "float32"}
        if exact:
            rankings |= {exact[dim]: ranking for dim, ranking in prefix_topk(queries, corpus, list(exact), k).items()}
    return rankings


def _search(configuration: Configuration, corpus: Tensor, corpora: dict[Storage, Corpus]) -> Search:
    """Returns the search function of a configuration, over a corpus stored as an index would store it."""
    dim, shortlists = configuration.dim, configuration.shortlists
    if _holds_signs(configuration.storage):
        beside = STORAGE_TYPES[configuration.storage].codes
        codes = None if beside is None else corpora[beside]
        signs = BinaryVectors(sign_bits(corpus, dim), dim, None if codes is None else prefix(codes, dim).contiguous())
        return lambda queries, k: signs.topk(queries, shortlists[0], k)
    vectors = prefix(corpora[configuration.storage], dim).contiguous()
    if configuration.funnel:
        return lambda queries, k: funnel_topk(queries[:, :dim], vectors, configuration.funnel, shortlists, k)
    return lambda queries, k: prefix_topk(queries[:, :dim], vectors, [dim], k)[dim]


def _figures(measured: dict[Configuration, list[QueryMetrics]], evaluation: Evaluation, confidence: float) -> dict[Configuration, Figures]:
    figures: dict[Configuration, Figures] = {candidate: ({}, {}) for candidate in measured}
    for candidate, (metrics, intervals) in figures.items():
        for result in evaluation.results:
            if candidate.is_exact and candidate.storage == "float32" and result.dim == candidate.dim:
                metrics[result.pair_kind], intervals[result.pair_kind] = result.metrics, result.intervals
    new = {candidate: of_candidate for candidate, of_candidate in measured.items() if not figures[candidate][0]}
    for kind in dict.fromkeys(result.pair_kind for result in evaluation.results):
        of_kind = {
            candidate: [each for each in of_candidate if kind in (ALL, each.searched.pair_kind)] for candidate, of_candidate in new.items()
        }
        for candidate, (of_metrics, of_intervals) in summaries(of_kind, confidence).items() if new else ():
            figures[candidate][0][kind], figures[candidate][1][kind] = of_metrics, of_intervals
    return figures
