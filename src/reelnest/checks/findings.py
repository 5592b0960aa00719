"""The result of an expectation, as the report records it and as the page shows it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import pandas as pd
from great_expectations.core import ExpectationValidationResult

from reelnest.artifacts.validation_report import ExpectationOutcome, Severity
from reelnest.checks.tables import GOOD, Table

ITEM_COLUMNS = ("pair", "video_id")
"""Columns that identify a line's item; the first one in the table is used."""


@dataclass(frozen=True)
class Example:
    """A line with an unexpected value."""

    line: int
    item: str
    """The line's video or pair."""
    value: str
    """The unexpected value, unless it is part of `item`."""


@dataclass(frozen=True)
class Finding:
    """An outcome, with the details that only the page shows."""

    outcome: ExpectationOutcome
    columns: tuple[str, ...]
    allowed: str
    """The allowed values in a few words; may be empty."""
    examples: tuple[Example, ...]

    def restated(self, suite: str, severity: Severity) -> "Finding":
        """Returns the same finding, of a suite with the same expectations on the same lines."""
        return replace(self, outcome=self.outcome.model_copy(update={"suite": suite, "severity": severity}))


def finding_of(suite: str, table: Table, result: ExpectationValidationResult) -> Finding:
    """Converts Great Expectations' `result` on `table`."""
    settings: Mapping[str, Any] = result.expectation_config.kwargs
    columns = tuple(str(settings[key]) for key in ("column", "column_A", "column_B") if key in settings)
    unexpected = table.rows.loc[result.result.get("partial_unexpected_index_list") or []].sort_values("line", kind="stable")
    return Finding(_outcome(suite, result, unexpected), columns, _allowed(settings), _examples(table, columns, unexpected))


def _outcome(suite: str, result: Any, unexpected: pd.DataFrame) -> ExpectationOutcome:
    config, details = result.expectation_config, result.result
    if result.exception_info and result.exception_info.get("raised_exception"):
        observed: Any = result.exception_info["exception_message"]
    elif "unexpected_count" in details:
        observed = {"rows": details["element_count"], "unexpected": details["unexpected_count"]}
    elif "missing_count" in details:
        observed = {"missing": list(details.get("partial_missing_list", []))}
    else:
        observed = details.get("observed_value")
    return ExpectationOutcome(
        suite=suite,
        expectation=config.type,
        description=config.description,
        severity=config.severity.value,
        success=bool(result.success),
        observed=observed,
        lines=tuple(unexpected["line"].unique().tolist()),
    )


def _examples(table: Table, columns: tuple[str, ...], unexpected: pd.DataFrame) -> tuple[Example, ...]:
    named = next((column for column in ITEM_COLUMNS if column in unexpected), None)
    names = [""] * len(unexpected) if named is None else [table.text(named, name) for name in unexpected[named]]
    values = {column: [table.text(column, value) for value in unexpected[column]] for column in columns}
    informative = [texts for texts in values.values() if any(map(_has_detail, texts, names))]
    shown = zip(*informative, strict=True) if informative else repeat((), len(names))
    return tuple(map(Example, unexpected["line"].tolist(), names, map(", ".join, shown)))


def _has_detail(value: str, name: str) -> bool:
    return value not in name and value not in ("True", "False")


def _allowed(settings: Mapping[str, Any]) -> str:
    if "min_share" in settings:
        return f"at least {100 * settings['min_share']:g}\u00a0% of the lines"
    if "max_difference" in settings:
        return f"at most {100 * settings['max_difference']:g}\u00a0% of the lines"
    if "value_set" in settings:
        return ", ".join(str(value) for value in settings["value_set"] if value not in (True, GOOD))
    least, most = settings.get("min_value"), settings.get("max_value")
    if least is None and most is None:
        return ""
    if most is None:
        return f"{'above' if settings.get('strict_min') else 'at least'} {least:,g}"
    return f"{least:,.10g} to {most:,.10g}"
