"""`reports/evaluation.json`: how good the candidate is on the test split, in each configuration, and what it was compared with."""

from typing import ClassVar

from reelnest.artifacts.artifact import Artifact, Part

ALL, FLOATS = "all", "float32"
"""The pair kind that stands for the queries of all kinds, and the storage type that is exact."""
Interval = tuple[float, float]


class Measured(Part):
    """Metrics by name, and the confidence interval of each."""

    metrics: dict[str, float]
    intervals: dict[str, Interval]


class Result(Measured):
    """One pair kind at one dim, by exact search."""

    pair_kind: str
    dim: int
    storage: str
    queries: int
    corpus: int
    bytes_per_vector: int
    queries_per_second: float


class ConfigurationResult(Measured):
    """One way to store and to search vectors, over all queries."""

    name: str
    dim: int
    storage: str
    funnel: tuple[int, ...] | None
    shortlists: tuple[int, ...]
    bytes_per_vector: int
    index_bytes: int
    """Of an index of `index_videos` videos."""
    queries_per_second: float


class SliceResult(Measured):
    """Some of the queries, at one dim, by exact search."""

    slice: str
    value: str
    dim: int
    queries: int
    small: bool
    """Whether there are so few queries that the metrics say little."""


class NegativesOutranked(Part):
    """How often the relevant item ranks above the negatives that the data lists for its query."""

    pair_kind: str
    dim: int
    value: float
    queries: int


class RecommendedConfiguration(Part):
    """The smallest configuration that is as good as the best one, and the evidence."""

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
    """The lower end of the difference to the best."""
    bytes_per_vector: int


class BehaviourFailure(Part):
    """A behaviour test that did not pass at some dims."""

    line: int
    kind: str
    query: str
    dims: tuple[int, ...]
    found: str


class BehaviourResults(Part):
    """The behaviour tests."""

    tests: int
    by_kind: dict[str, int]
    passed: dict[str, float]
    """By dim, the share of all tests."""
    passed_by_kind: dict[str, dict[str, float]]
    """By dim, then by kind."""
    left_out: int
    """Tests that name videos which could not be prepared."""
    failed: int
    failures: tuple[BehaviourFailure, ...]
    """The first ones."""
    hash: str
    """Of the tests."""

    @property
    def dims(self) -> list[int]:
        """The dims at which the tests ran, rising."""
        return sorted(map(int, self.passed_by_kind))


class Difference(Part):
    """A metric of one model minus that of another, at one dim, with its confidence interval."""

    dim: int
    value: float
    low: float
    high: float


class ComparedWith(Part):
    """This evaluation minus an earlier one."""

    what: str
    version: int | None
    run_id: str
    metric: str
    differences: tuple[Difference, ...]


class NotComparedWith(Part):
    """What there was nothing to compare with, and why."""

    what: str
    reason: str


class EvaluationCode(Part):
    """The code that measured."""

    hash: str


class EvaluatedModel(Part):
    """The model that was measured."""

    hash: str
    base: str
    embedding_width: int


class SetSize(Part):
    """How many queries search among how many items."""

    queries: int
    corpus: int


class EvaluationData(Part):
    """The queries, and what is relevant to them."""

    hash: str
    pair_kinds: dict[str, SetSize]


class EvaluationReport(Artifact):
    """The report of `reelnest evaluate`."""

    FILE: ClassVar[str] = "evaluation.json"
    COMMAND: ClassVar[str] = "reelnest evaluate"

    split: str
    dims: tuple[int, ...]
    width: int
    """The largest of `dims`."""
    untrained_dims: tuple[int, ...]
    queries: int
    corpus: int
    confidence: float
    results: tuple[Result, ...]
    negatives_outranked: tuple[NegativesOutranked, ...]
    index_videos: int
    configurations: tuple[ConfigurationResult, ...]
    choice: RecommendedConfiguration
    slices: tuple[SliceResult, ...]
    behaviour: BehaviourResults
    code: EvaluationCode
    model: EvaluatedModel
    data: EvaluationData
    compared_with: tuple[ComparedWith, ...]
    not_compared: tuple[NotComparedWith, ...]

    @property
    def by_dim(self) -> dict[int, Result]:
        """The results over all queries, by rising dim."""
        return {result.dim: result for result in sorted(self.results, key=lambda result: result.dim) if result.pair_kind == ALL}

    @property
    def chosen(self) -> ConfigurationResult:
        """The configuration that `choice` names."""
        return next(one for one in self.configurations if one.name == self.choice.name)
