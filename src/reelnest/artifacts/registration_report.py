"""`reports/registration.json`: the registered version, whether it became champion, and why."""

from typing import ClassVar

from reelnest.artifacts.artifact import Artifact, FrozenModel
from reelnest.artifacts.evaluation_report import Difference
from reelnest.artifacts.lineage import Origins

PROMOTED, NOT_PROMOTED, WAITS = "promoted", "not promoted", "waits for approval"
"""The decisions."""


class ConditionResult(FrozenModel):
    """A condition of the promotion, and whether the challenger meets it."""

    name: str
    passed: bool | None
    """None while it waits for a person's approval."""
    why: str


class RegistrationReport(Artifact):
    """The report of `reelnest register`."""

    FILE: ClassVar[str] = "registration.json"
    COMMAND: ClassVar[str] = "reelnest register"

    name: str
    version: int
    """The number of the registered model's version."""
    aliases: tuple[str, ...]
    decision: str
    reason: str
    conditions: tuple[ConditionResult, ...]
    """The conditions that were checked, in order. Empty for a manual promotion."""
    differences: tuple[Difference, ...]
    """Challenger minus champion by dim. Empty if they were not compared."""
    metric: str
    value: float
    run_id: str | None
    model_hash: str
    lineage: Origins | None
    """None for a version without a lineage, or whose files were deleted."""
