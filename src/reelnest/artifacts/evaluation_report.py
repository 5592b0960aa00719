"""`reports/evaluation.json`: the candidate's metrics on the test split in each configuration, and comparisons with earlier models."""

from typing import ClassVar

from reelnest.artifacts.artifact import Artifact, FrozenModel

ALL, FLOATS = "all", "float32"
"""The pair kind for all queries together, and the exact storage type."""
Interval = tuple[float, float]


class Measured(FrozenModel):
    """Metrics and their confidence intervals, by name."""

    metrics: dict[str, float]
    intervals: dict[str, Interval]


class Result(Measured):
    """Metrics of one pair kind at one dim, with exact search."""

    pair_kind: str
    dim: int
    storage: str
    queries: int
    corpus: int
    bytes_per_vector: int


class ConfigurationResult(Measured):
    """Metrics of one way to store and search vectors, over all queries."""

    name: str
    dim: int
    storage: str
    funnel: tuple[int, ...] | None
    shortlists: tuple[int, ...]
    bytes_per_vector: int
    index_bytes: int
    """Size of an index of `index_videos` videos."""
    queries_per_second: float
    """The median of repeated runs on the machine of the evaluation, without encoding."""
    queries_per_second_range: Interval
    """The quartiles of the repeated runs."""
    above_negatives: float | None
    """Share of the queries with listed negatives that have a relevant item above all of them; None if no query lists any."""


class SliceResult(Measured):
    """Metrics of a segment of the queries at one dim, with exact search."""

    slice: str
    value: str
    dim: int
    queries: int
    small: bool
    """Whether the segment has too few queries for reliable metrics."""


class NegativesOutranked(FrozenModel):
    """The share of queries whose relevant item ranks above the negatives that the data lists for them."""

    pair_kind: str
    dim: int
    value: float
    queries: int


class RecommendedConfiguration(FrozenModel):
    """The smallest configuration that is not worse than the best by more than the margin, and the evidence."""

    name: str
    dim: int
    storage: str
    funnel: tuple[int, ...] | None
    metric: str
    margin: float
    value: float
    best_name: str
    best_dim: int
    best_value: float
    low: float
    """The lower end of the confidence interval of the difference to the best."""
    bytes_per_vector: int


class EngineLoad(FrozenModel):
    """Searches of an engine by several clients at once."""

    clients: int
    queries_per_second: float
    p50_ms: float
    p99_ms: float


class EngineResult(FrozenModel):
    """The recommended configuration in a search engine, searched among a share of the rows."""

    engine: str
    storage: str
    share: float
    rows: int
    recall: float
    """The mean share of the ten best by exact cosines that are among the results."""
    label_recall: float | None
    """Recall@10 on the labels; None behind a filter."""
    loads: tuple[EngineLoad, ...]
    disk_bytes: int | None
    """None if the engine does not say."""
    memory_bytes: int | None
    """What the process grew by; None for a server."""


class BehaviourFailure(FrozenModel):
    """A behaviour test that failed at some dims."""

    line: int
    kind: str
    query: str
    dims: tuple[int, ...]
    problem: str


class BehaviourResults(FrozenModel):
    """The results of the behaviour tests."""

    tests: int
    by_kind: dict[str, int]
    passed: dict[str, float]
    """The share of tests that passed, by dim."""
    passed_by_kind: dict[str, dict[str, float]]
    """The same by dim and kind."""
    left_out: int
    """Tests that name videos that could not be prepared."""
    failed: int
    failures: tuple[BehaviourFailure, ...]
    """The first failures."""
    hash: str
    """Hash of the tests."""

    @property
    def dims(self) -> list[int]:
        """The dims at which the tests ran, in increasing order."""
        return sorted(map(int, self.passed_by_kind))


class Difference(FrozenModel):
    """A metric of one model minus that of another, at one dim, with its confidence interval."""

    dim: int
    value: float
    low: float
    high: float


class ComparedWith(FrozenModel):
    """This evaluation minus an earlier one."""

    what: str
    version: int | None
    run_id: str
    metric: str
    differences: tuple[Difference, ...]


class NotComparedWith(FrozenModel):
    """A comparison that was not possible, and the reason."""

    what: str
    reason: str


class EvaluationCode(FrozenModel):
    """The code of the evaluation."""

    hash: str


class EvaluatedModel(FrozenModel):
    """The evaluated model."""

    hash: str
    base: str
    embedding_width: int


class SetSize(FrozenModel):
    """The number of queries and of corpus items."""

    queries: int
    corpus: int


class EvaluationData(FrozenModel):
    """The queries and their relevant items."""

    hash: str
    pair_kinds: dict[str, SetSize]


class EvaluationReport(Artifact):
    """The report of `reelnest evaluate`."""

    FILE: ClassVar[str] = "evaluation.json"
    COMMAND: ClassVar[str] = "reelnest evaluate"
    VERSION: ClassVar[int] = 2

    split: str
    dims: tuple[int, ...]
    width: int
    """The largest of `dims`."""
    untrained_dims: tuple[int, ...]
    queries: int
    corpus: int
    confidence: float
    best_possible: dict[str, dict[str, float]]
    """By pair kind and metric, the value of a perfect search. Recall@1 is below 1 if queries have several relevant items."""
    no_test: dict[str, dict[str, str]]
    """By pair kind, the metrics in which models cannot differ on this data, with the reason."""
    results: tuple[Result, ...]
    negatives_outranked: tuple[NegativesOutranked, ...]
    index_videos: int
    configurations: tuple[ConfigurationResult, ...]
    choice_metric: str
    choice: RecommendedConfiguration | None
    """None if `choice_metric` is no test on this data."""
    slices: tuple[SliceResult, ...]
    behaviour: BehaviourResults
    engines: tuple[EngineResult, ...] = ()
    """Empty without `evaluate.engines`."""
    code: EvaluationCode
    model: EvaluatedModel
    data: EvaluationData
    compared_with: tuple[ComparedWith, ...]
    not_compared: tuple[NotComparedWith, ...]

    @property
    def by_dim(self) -> dict[int, Result]:
        """The results over all queries, in increasing order of dim."""
        return {result.dim: result for result in sorted(self.results, key=lambda result: result.dim) if result.pair_kind == ALL}

    @property
    def featured(self) -> ConfigurationResult:
        """The recommended configuration; without a recommendation, the largest one."""
        if self.choice is None:
            return max(self.configurations, key=lambda configuration: (configuration.bytes_per_vector, not configuration.funnel))
        name = self.choice.name
        return next(configuration for configuration in self.configurations if configuration.name == name)

    @property
    def metric(self) -> str:
        """The metric of charts and query segments: `choice_metric`, or the first one that is a test if that one is not."""
        excluded = self.no_test.get(ALL, {})
        return next((name for name in (self.choice_metric, *self.featured.metrics) if name not in excluded), self.choice_metric)
