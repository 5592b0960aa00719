"""What an index could be built as: each dim, storage type and funnel, with its quality, its size and its speed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from reelnest.errors import ConfigError
from reelnest.evaluation.evaluation import ALL, Evaluation, QueryMetrics, Vectors, queries_per_second, summaries
from reelnest.evaluation.metrics import ScoredQueries, query_metrics
from reelnest.evaluation.relevance import Qrels
from reelnest.search.binary import BinaryVectors
from reelnest.search.funnel import funnel_topk
from reelnest.search.storage import Corpus, Int8Vectors, prefix, stored
from reelnest.search.storage_types import STORAGE_TYPES, bytes_per_vector, index_bytes
from reelnest.search.topk import Ranking, prefix_topk
from reelnest.settings import Evaluate, Storage

Figures: TypeAlias = tuple[dict[str, dict[str, float]], dict[str, dict[str, tuple[float, float]]]]
"""By pair kind, the metrics, and their intervals."""
Search: TypeAlias = Callable[[Tensor, int], Ranking]
"""The best k results of some queries, (queries, width)."""


@dataclass(frozen=True)
class Configuration:
    """One way to keep and to search vectors."""

    dim: int
    """The numbers kept of each vector; the last dim of a funnel."""
    storage: Storage = "float32"
    funnel: tuple[int, ...] = ()
    """Rising dims; empty for one search at `dim`."""
    shortlists: tuple[int, ...] = ()
    """Of the funnel, or of binary search."""

    @property
    def name(self) -> str:
        """Such as `256`, `256 int8`, `funnel 16→128`, `funnel 16→128 int8`."""
        dims = f"funnel {'→'.join(map(str, self.funnel))}" if self.funnel else str(self.dim)
        return dims if self.storage == "float32" else f"{dims} {self.storage}"

    @property
    def dims(self) -> tuple[int, ...]:
        """Every dim that is searched at."""
        return self.funnel or (self.dim,)

    @property
    def bytes_per_vector(self) -> int:
        """A funnel's shorter prefixes are the beginning of what is kept, and take nothing."""
        return bytes_per_vector(self.dim, self.storage)

    def index_bytes(self, videos: int) -> int:
        """Of so many videos."""
        return index_bytes(videos, self.dim, self.storage)

    @property
    def is_exact(self) -> bool:
        """Whether all of the corpus is compared with over all of the dim; a longer list can then be asked for at no cost."""
        return not self.funnel and not _holds_signs(self.storage)


@dataclass(frozen=True)
class Measured:
    """A configuration and what came of it."""

    configuration: Configuration
    metrics: dict[str, dict[str, float]]
    """By pair kind, `all` last. Those that need the best ranks are known of exact float32 search alone."""
    intervals: dict[str, dict[str, tuple[float, float]]]
    by_query: tuple[QueryMetrics, ...] = field(repr=False)
    queries_per_second: float
    """Of all queries' top TIMED_K, on this machine, up to TIMED_QUERIES at once, without encoding."""


def configurations(dims: Sequence[int], settings: Evaluate) -> list[Configuration]:
    """Those that the settings name, for vectors that are evaluated at `dims`, rising. Raises ConfigError for a funnel beyond these."""
    found = [
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
                f"params.yaml: evaluate.funnels: dim {funnel[-1]} is above {dims[-1]}, the full width of this model's vectors. "
                "End the funnel there."
            )
        by_cosine = [storage for storage in dict.fromkeys(settings.storage) if not _holds_signs(storage)]
        found += [Configuration(funnel[-1], storage, funnel, shortlists) for storage in by_cosine]
    return list(dict.fromkeys(found))


def measure(
    wanted: Sequence[Configuration], evaluation: Evaluation, queries: Vectors, targets: Vectors, depth: int, confidence: float
) -> list[Measured]:
    """What each configuration finds of the sets that were evaluated, and how fast.

    Storage types are calibrated on the corpus of each set. Those that are searched exactly go through it once for all dims. What is
    float32 and exact was found already. `evaluation` was made from `queries` and `targets`, with `depth`.
    """
    found: dict[Configuration, list[QueryMetrics]] = {one: [] for one in wanted}
    seconds = dict.fromkeys(wanted, 0.0)
    for retrieved in evaluation.retrieved:
        searched = retrieved.searched
        qrels = Qrels(searched)
        asked, corpus = queries.of(searched.queries), targets.of(searched.corpus)
        storages = {one.storage for one in wanted}
        codes = {codes for storage in storages if (codes := STORAGE_TYPES[storage].codes) is not None}
        kept = {storage: stored(corpus, storage) for storage in storages | codes if not _holds_signs(storage)}
        rankings = _exact_rankings(wanted, asked, kept, depth + qrels.most_ignored)
        for one in wanted:
            search = _search(one, corpus, kept)
            seconds[one] += len(asked) / queries_per_second(search, asked)
            if one in rankings or not one.is_exact:
                ranking = rankings[one] if one in rankings else search(asked, depth + qrels.most_ignored)
                values = query_metrics(ScoredQueries(qrels.label(ranking, depth).hits, qrels.relevance))
                found[one].append(QueryMetrics(searched, one.dim, values))
            else:
                found[one] += [by_query for by_query in evaluation.by_query if by_query.searched is searched and by_query.dim == one.dim]
    figures = _figures(found, evaluation, confidence)
    total = sum(len(retrieved.searched.queries) for retrieved in evaluation.retrieved)
    return [Measured(one, *figures[one], tuple(found[one]), total / max(seconds[one], 1e-9)) for one in wanted]


def _holds_signs(storage: Storage) -> bool:
    return STORAGE_TYPES[storage].store is None


def _exact_rankings(wanted: Sequence[Configuration], queries: Tensor, kept: dict[Storage, Corpus], k: int) -> dict[Configuration, Ranking]:
    """Of the exact configurations but float32, in one pass for each storage type."""
    rankings: dict[Configuration, Ranking] = {}
    for storage, corpus in kept.items():
        exact = {one.dim: one for one in wanted if one.is_exact and one.storage == storage != "float32"}
        if exact:
            rankings |= {exact[dim]: ranking for dim, ranking in prefix_topk(queries, corpus, list(exact), k).items()}
    return rankings


def _search(configuration: Configuration, corpus: Tensor, kept: dict[Storage, Corpus]) -> Search:
    """The search of one configuration in a corpus that is kept as an index would keep it."""
    dim, shortlists = configuration.dim, configuration.shortlists
    if _holds_signs(configuration.storage):
        beside = STORAGE_TYPES[configuration.storage].codes
        codes = None if beside is None else kept[beside]
        signs = BinaryVectors(corpus, dim, codes if isinstance(codes, Int8Vectors) else None)
        return lambda queries, k: signs.topk(queries, shortlists[0], k)
    vectors = prefix(kept[configuration.storage], dim).contiguous()
    if configuration.funnel:
        return lambda queries, k: funnel_topk(queries[:, :dim], vectors, configuration.funnel, shortlists, k)
    return lambda queries, k: prefix_topk(queries[:, :dim], vectors, [dim], k)[dim]


def _figures(found: dict[Configuration, list[QueryMetrics]], evaluation: Evaluation, confidence: float) -> dict[Configuration, Figures]:
    figures: dict[Configuration, Figures] = {one: ({}, {}) for one in found}
    for one, (metrics, intervals) in figures.items():
        for result in evaluation.results:
            if one.is_exact and one.storage == "float32" and result.dim == one.dim:
                metrics[result.pair_kind], intervals[result.pair_kind] = result.metrics, result.intervals
    new = {one: of_one for one, of_one in found.items() if not figures[one][0]}
    for kind in dict.fromkeys(result.pair_kind for result in evaluation.results):
        of_kind = {one: [each for each in of_one if kind in (ALL, each.searched.pair_kind)] for one, of_one in new.items()}
        for one, (of_metrics, of_intervals) in summaries(of_kind, confidence).items() if new else ():
            figures[one][0][kind], figures[one][1][kind] = of_metrics, of_intervals
    return figures
