"""The origins of a model, as in `lineage.json` of a registered version and in `reports/registration.json`."""

from reelnest.artifacts.artifact import FrozenModel
from reelnest.artifacts.validation_report import RecordCounts, ValidationReport


class Commit(FrozenModel):
    """The git checkout in which a model was trained."""

    hash: str
    clean: bool
    changes_saved: bool
    """Whether `changes.diff` contains all uncommitted changes. True if there are none."""
    repository: str
    """The repository to clone."""
    published: bool
    """Whether `repository` is the checkout's `origin` rather than the local repository."""
    folder: str
    """The project's folder in the repository."""


class DataVersion(FrozenModel):
    """The version of the data in `data.dvc`, and where to get the files."""

    hash: str
    files: int | None
    bytes: int | None
    sample_seed: int | None
    """The seed of the sample; None for other data."""
    remote: str | None
    """The DVC remote; None if there is none."""
    cache: str
    """The DVC cache of this machine."""


class FlowRun(FrozenModel):
    """A Prefect flow run."""

    id: str
    url: str | None


class ValidatedData(FrozenModel):
    """The result of the validation of the data."""

    passed: bool
    videos: RecordCounts
    pairs: RecordCounts
    quarantined: int

    @classmethod
    def of(cls, report: ValidationReport) -> "ValidatedData":
        """Returns the summary of a validation."""
        videos, pairs = (RecordCounts(lines=table.lines, good=table.good) for table in (report.videos, report.pairs))
        return cls(passed=report.passed, videos=videos, pairs=pairs, quarantined=report.quarantined.records)


class Environment(FrozenModel):
    """The environment in which a model was trained."""

    python: str
    platform: str
    packages: int
    lock_hash: str | None
    """SHA-256 of `requirements.lock`; None if the file is missing."""
    differing: tuple[str, ...]
    """Packages whose installed version differs from `requirements.lock`."""


class Origins(FrozenModel):
    """The summary of a lineage that reports show. A field is None if its information is not available."""

    commit: Commit | None
    data: DataVersion | None
    flow_run: FlowRun | None
    validation: ValidatedData | None
    environment: Environment
