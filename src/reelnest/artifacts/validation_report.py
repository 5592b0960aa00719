"""`reports/validation.json`: whether the data passed validation, and its records and problems."""

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from reelnest.artifacts.artifact import Artifact, FrozenModel

Severity = Literal["critical", "warning"]


class RecordCounts(FrozenModel):
    """The number of lines of a file, and of its valid records."""

    good: int
    lines: int


class VideoCounts(RecordCounts):
    """The records of `videos.jsonl`, and totals over the valid ones."""

    frames: int
    seconds: float
    by_decoder: dict[str, int]
    """Valid videos by the decoder that read them."""
    megabytes: float


class PairCounts(RecordCounts):
    """The records of `pairs.jsonl`."""

    by_split_and_kind: dict[str, dict[str, int]]


class TextCounts(FrozenModel):
    """The texts of a split. Those that differ only in white space, case or Unicode form count once."""

    distinct: int
    near_duplicates: int
    """Texts of which a near duplicate is in the same split."""
    near_duplicates_of_train: int
    """Texts of which a near duplicate is in the train split; 0 for that split itself."""
    scripts: dict[str, int]
    """Texts by the script of most of their letters; empty for those without letters."""


class Quarantined(FrozenModel):
    """The quarantined records."""

    records: int
    fraction: float
    allowed_fraction: float
    by_reason: dict[str, dict[str, int]]
    """Counts by file, then by reason."""


class BehaviourCounts(RecordCounts):
    """The records of `behaviour.jsonl`."""

    by_kind: dict[str, int]
    of_training: int
    """Tests whose query or videos are also in the training split, which makes them less meaningful."""
    of_other_data: int
    """Tests that are not used, because most of the file's tests name videos that this data does not have."""


class LostQueries(FrozenModel):
    """Queries that lost all targets to the quarantine."""

    count: int
    pairs_by_reason: dict[str, int]
    queries: tuple[str, ...]
    """The first queries."""


class ExpectationOutcome(FrozenModel):
    """The result of one expectation."""

    suite: str
    expectation: str
    description: str
    severity: Severity
    success: bool
    observed: JsonValue
    """The observed value, or the numbers of unexpected rows and of all rows."""
    lines: tuple[int, ...]
    """The first lines of the file with an unexpected value."""

    @property
    def summary(self) -> str:
        """A one-line description of a failed expectation."""
        if isinstance(self.observed, dict) and "unexpected" in self.observed:
            return f"{self.observed['unexpected']:,} of {self.observed['rows']:,} rows fail: {self.description}"
        return f"the check '{self.description}' failed: observed {self.observed}"


class ValidationReport(Artifact):
    """The report of `reelnest validate`."""

    FILE: ClassVar[str] = "validation.json"
    COMMAND: ClassVar[str] = "reelnest validate"

    passed: bool
    videos: VideoCounts
    pairs: PairCounts
    quarantined: Quarantined
    behaviour: BehaviourCounts
    queries_without_target: LostQueries
    expectations: tuple[ExpectationOutcome, ...]
    texts: dict[str, dict[str, TextCounts]] = Field(default_factory=dict)
    """Counts of the texts of `pairs` and of the `titles` of videos, by split."""
    warnings: tuple[str, ...] = ()
    """Problems that do not stop the workflow but make training or the test worthless, with what to do."""
