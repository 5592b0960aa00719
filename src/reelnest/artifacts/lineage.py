"""Where a model comes from, as `lineage.json` beside a registered version and `reports/registration.json` hold it."""

from reelnest.artifacts.artifact import Part
from reelnest.artifacts.validation_report import RecordCounts, ValidationReport


class Commit(Part):
    """The git checkout in which a model was made."""

    hash: str
    clean: bool
    changes_saved: bool
    """Whether `changes.diff` has what was not committed (or nothing was)."""
    repository: str
    """What to clone."""
    published: bool
    """Whether `repository` is the checkout's `origin`, and not the machine's own."""
    folder: str
    """The project's, in the repository."""


class DataVersion(Part):
    """What `data.dvc` says, and where the bytes are to be had."""

    hash: str
    files: int | None
    bytes: int | None
    sample_seed: int | None
    """Where the data is the sample."""
    remote: str | None
    """DVC's, where one is set."""
    cache: str
    """This machine's copy."""


class FlowRun(Part):
    """A Prefect flow run."""

    id: str
    url: str | None


class ValidatedData(Part):
    """Whether the data passed, and the counts."""

    passed: bool
    videos: RecordCounts
    pairs: RecordCounts
    quarantined: int

    @classmethod
    def of(cls, report: ValidationReport) -> "ValidatedData":
        """The summary of a validation."""
        videos, pairs = (RecordCounts(lines=table.lines, good=table.good) for table in (report.videos, report.pairs))
        return cls(passed=report.passed, videos=videos, pairs=pairs, quarantined=report.quarantined.records)


class Environment(Part):
    """What a model was made on."""

    python: str
    platform: str
    packages: int
    lock_hash: str | None
    """SHA-256 of `requirements.lock`; None where there is none."""
    differing: tuple[str, ...]
    """Packages that are not installed in the version that `requirements.lock` names."""


class Origins(Part):
    """The part of a lineage that fits on a page. None: there was no such thing."""

    commit: Commit | None
    data: DataVersion | None
    flow_run: FlowRun | None
    validation: ValidatedData | None
    environment: Environment
