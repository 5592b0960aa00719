"""What came of an expectation, as the report records it and as the page shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from great_expectations.core import ExpectationValidationResult

from reelnest.artifacts.validation_report import ExpectationOutcome
from reelnest.checks.tables import GOOD

ITEM_COLUMNS = ("pair", "video_id")
"""The column of a table that says best what a line is about."""


@dataclass(frozen=True)
class Example:
    """A line with something unexpected."""

    line: int
    item: str
    """The line's video or pair."""
    value: str
    """What is unexpected, where the item does not say it."""


@dataclass(frozen=True)
class Finding:
    """An outcome with what the page shows of it beside the outcome itself."""

    outcome: ExpectationOutcome
    columns: tuple[str, ...]
    allowed: str
    """The values that meet the expectation, where that can be said in a few words."""
    examples: tuple[Example, ...]


def finding_of(suite: str, table: pd.DataFrame, found: ExpectationValidationResult) -> Finding:
    """`found` is Great Expectations' result on `table`."""
    settings: Mapping[str, Any] = found.expectation_config.kwargs
    columns = tuple(str(settings[key]) for key in ("column", "column_A", "column_B") if key in settings)
    return Finding(_outcome(suite, found), columns, _allowed(settings), _examples(table, columns, found))


def _outcome(suite: str, found: Any) -> ExpectationOutcome:
    config, result = found.expectation_config, found.result
    if found.exception_info and found.exception_info.get("raised_exception"):
        observed: Any = found.exception_info["exception_message"]
    elif "unexpected_count" in result:
        observed = {"rows": result["element_count"], "unexpected": result["unexpected_count"]}
    elif "missing_count" in result:
        observed = {"missing": list(result.get("partial_missing_list", []))}
    else:
        observed = result.get("observed_value")
    lines = tuple(sorted({int(row["line"]) for row in _rows(found)}))
    return ExpectationOutcome(
        suite=suite,
        expectation=config.type,
        description=config.description,
        severity=config.severity.value,
        success=bool(found.success),
        observed=observed,
        lines=lines,
    )


def _rows(found: Any) -> list[Mapping[str, Any]]:
    return found.result.get("partial_unexpected_index_list") or []


def _examples(table: pd.DataFrame, columns: tuple[str, ...], found: Any) -> tuple[Example, ...]:
    named = next((column for column in ITEM_COLUMNS if column in table), None)
    names = (
        {} if named is None else {int(line): str(name) for line, name in zip(table["line"], table[named], strict=True) if not pd.isna(name)}
    )
    rows = sorted(((int(row["line"]), row) for row in _rows(found)), key=lambda pair: pair[0])
    telling = [column for column in columns if any(_has_detail(str(row[column]), names.get(line, "")) for line, row in rows)]
    return tuple(Example(line, names.get(line, ""), ", ".join(str(row[column]) for column in telling)) for line, row in rows)


def _has_detail(value: str, name: str) -> bool:
    return value not in name and value not in ("True", "False")


def _allowed(settings: Mapping[str, Any]) -> str:
    if "min_share" in settings:
        return f"at least {100 * settings['min_share']:g}\u00a0% of the lines"
    if "value_set" in settings:
        return ", ".join(str(value) for value in settings["value_set"] if value not in (True, GOOD))
    least, most = settings.get("min_value"), settings.get("max_value")
    if least is None and most is None:
        return ""
    if most is None:
        return f"{'above' if settings.get('strict_min') else 'at least'} {least:,g}"
    return f"{least:,.10g} to {most:,.10g}"
