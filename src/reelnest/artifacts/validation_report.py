"""`reports/validation.json`: whether the data can be used, and what was found in it."""

from typing import ClassVar, Literal

from pydantic import JsonValue

from reelnest.artifacts.artifact import Artifact, Part

Severity = Literal["critical", "warning"]


class RecordCounts(Part):
    """The lines of a file, and those of them that are good."""

    good: int
    lines: int


class VideoCounts(RecordCounts):
    """The records of `videos.jsonl`, and what the good ones hold together."""

    frames: int
    seconds: float
    by_decoder: dict[str, int]
    """The good ones by the decoder that read them."""
    megabytes: float


class PairCounts(RecordCounts):
    """The records of `pairs.jsonl`."""

    by_split_and_kind: dict[str, dict[str, int]]


class Quarantined(Part):
    """The bad records."""

    records: int
    fraction: float
    allowed_fraction: float
    by_reason: dict[str, dict[str, int]]
    """By file, then by reason."""


class BehaviourCounts(RecordCounts):
    """The records of `behaviour.jsonl`."""

    by_kind: dict[str, int]
    of_training: int
    """Tests that ask or name what training reads: passing them says less."""


class LostQueries(Part):
    """Queries that the quarantine left without any target."""

    count: int
    pairs_by_reason: dict[str, int]
    queries: tuple[str, ...]
    """The first ones."""


class ExpectationOutcome(Part):
    """What came of one expectation."""

    suite: str
    expectation: str
    description: str
    severity: Severity
    success: bool
    observed: JsonValue
    """The observed value, or how many rows of how many were unexpected."""
    lines: tuple[int, ...]
    """The first lines of the file that hold something unexpected."""

    @property
    def summary(self) -> str:
        """How a failed expectation failed, in one line."""
        if isinstance(self.observed, dict) and "unexpected" in self.observed:
            return f"{self.observed['unexpected']:,} of {self.observed['rows']:,} rows fail: {self.description}"
        return f"the check '{self.description}' fails, with {self.observed}"


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
