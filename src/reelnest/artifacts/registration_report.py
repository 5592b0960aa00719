"""`reports/registration.json`: the registered version, whether it became champion, and why."""

from typing import ClassVar

from reelnest.artifacts.artifact import Artifact, Part
from reelnest.artifacts.evaluation_report import Difference
from reelnest.artifacts.lineage import Origins

PROMOTED, NOT_PROMOTED, WAITS = "promoted", "not promoted", "waits for approval"
"""The decisions."""


class ConditionResult(Part):
    """One of the things that a challenger has to fulfil, and whether it does."""

    name: str
    passed: bool | None
    """None: not known yet, since a person has to say."""
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
    """In their order, as far as they were looked at; empty of what was promoted by hand."""
    differences: tuple[Difference, ...]
    """Challenger minus champion by dim; empty where there was nothing to compare with."""
    metric: str
    value: float
    run_id: str | None
    model_hash: str
    lineage: Origins | None
    """None for a version that was registered without one, or whose files are gone."""
