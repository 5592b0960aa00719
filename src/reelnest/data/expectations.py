"""What the data is expected to be, as Great Expectations suites, and their Data Docs.

Each table is looked at twice, by one suite. As *found*, an expectation that fails is a warning: the page shows what was quarantined, and
why. As *used*, after the quarantine, it is critical: the quarantine has missed something, or nothing is left. Some expectations are
warnings in both: what they find is legitimate in some data sets, and should be known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import great_expectations as gx
import pandas as pd
from great_expectations import expectations as gxe
from great_expectations.checkpoint import UpdateDataDocsAction
from great_expectations.core import ExpectationSuite
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

from reelnest.config import Validate
from reelnest.data.custom_expectations import ExpectColumnPairToHaveOneBForEachA, ExpectColumnValuesToBeBalanced
from reelnest.data.formats import SPLITS
from reelnest.data.tables import GOOD, PAIR_COLUMNS, VIDEO_COLUMNS, pair_kind

Severity = Literal["critical", "warning"]

SITE = "data_docs"
EXAMPLES = 20
"""Unexpected values, and their lines, that a page shows for each expectation."""

# Bounds of what is usual. Outside them a video is decodable and used, but somebody should look at it.
USUAL_FPS = (1, 120)
USUAL_SIDE = (56, 4096)
SMALLEST_SHARE = 0.01
"""Of the pairs, that each kind of pair which is there should have."""

PAIR_KINDS = [pair_kind("text", "video"), pair_kind("video", "text"), pair_kind("text", "text"), pair_kind("video", "video")]


@dataclass(frozen=True)
class Outcome:
    """What came of one expectation."""

    table: str
    expectation: str
    description: str
    severity: Severity
    success: bool
    observed: Any
    """The observed value, or how many rows of how many were unexpected."""
    lines: tuple[int, ...]
    """The first lines of the file in which something unexpected stands."""


def videos_suite(name: str, settings: Validate, severity: Severity) -> ExpectationSuite:
    """What is expected of `tables.video_table`."""
    usual: Severity = "warning"

    def between(column: str, least: float, most: float, what: str, severity: Severity = severity) -> Expectation:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most, severity=severity, description=what)

    return ExpectationSuite(
        name=name,
        expectations=[
            gxe.ExpectTableColumnsToMatchSet(column_set=list(VIDEO_COLUMNS), severity="critical", description="the table has its columns"),
            gxe.ExpectColumnValuesToBeInSet(
                column="verdict", value_set=[GOOD], severity=severity, description="every line is well-formed and its video can be decoded"
            ),
            gxe.ExpectColumnValuesToNotBeNull(column="video_id", severity=severity, description="every video has an id"),
            gxe.ExpectColumnValuesToBeUnique(column="video_id", severity=severity, description="every video has an id of its own"),
            gxe.ExpectColumnValuesToBeUnique(column="source", severity=usual, description="no file is listed under two ids"),
            gxe.ExpectColumnValuesToBeUnique(column="content", severity=usual, description="no two ids have files with the same bytes"),
            gxe.ExpectColumnValuesToBeInSet(
                column="paired", value_set=[True], severity=usual, description="every video is the query or target of a pair"
            ),
            between("frames", 1, settings.max_video_frames, "a video has frames, and not too many"),
            between("seconds", 0, settings.max_video_seconds, "a video is not too long"),
            between("megabytes", 0, settings.max_video_megabytes, "a video's file is not too large"),
            between("fps", *USUAL_FPS, "a video has a usual frame rate", usual),
            between("width", *USUAL_SIDE, "a video has a usual width, in pixels", usual),
            between("height", *USUAL_SIDE, "a video has a usual height, in pixels", usual),
            between("field_characters", 1, settings.max_text_characters, "a video's text fields are not too long", usual),
        ],
    )


def pairs_suite(name: str, settings: Validate, severity: Severity) -> ExpectationSuite:
    """What is expected of `tables.pair_table`."""
    usual: Severity = "warning"

    def stays(column: str, what: str, severity: Severity) -> Expectation:
        return ExpectColumnPairToHaveOneBForEachA(column_A=column, column_B="split", severity=severity, description=what)

    def between(column: str, least: float, most: float, what: str, severity: Severity = severity) -> Expectation:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most, severity=severity, description=what)

    return ExpectationSuite(
        name=name,
        expectations=[
            gxe.ExpectTableColumnsToMatchSet(column_set=list(PAIR_COLUMNS), severity="critical", description="the table has its columns"),
            gxe.ExpectColumnValuesToBeInSet(
                column="verdict", value_set=[GOOD], severity=severity, description="every line is well-formed and names good videos only"
            ),
            gxe.ExpectColumnValuesToBeUnique(column="pair", severity=severity, description="no query and target stand in two lines"),
            stays("pair", "no query and target are in two splits", severity),
            stays("query", "no query is in two splits", usual),
            stays("target", "no target is in two splits", usual),
            stays("component", "pairs that a chain of queries and targets joins are in one split", usual),
            gxe.ExpectColumnDistinctValuesToContainSet(
                column="split", value_set=["train", "test"], severity=severity, description="there are pairs to train on and to test with"
            ),
            gxe.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS), severity=severity, description="every split is known"),
            gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=PAIR_KINDS, severity=severity, description="every pair is of a kind"),
            ExpectColumnValuesToBeBalanced(
                column="kind", min_share=SMALLEST_SHARE, severity=usual, description="no kind of pair that is there is very rare"
            ),
            between("query_characters", 1, settings.max_text_characters, "a query's text is neither empty nor too long"),
            between("target_characters", 1, settings.max_text_characters, "a target's text is neither empty nor too long"),
            gxe.ExpectColumnValuesToBeBetween(
                column="relevance", min_value=0, strict_min=True, severity=severity, description="every relevance is above 0"
            ),
            between("contradicted_negatives", 0, 0, "no negative of a query is its right answer in another line", usual),
        ],
    )


def check(tables: Mapping[str, tuple[pd.DataFrame, ExpectationSuite]], docs: Path) -> list[Outcome]:
    """Runs each suite on its table and builds Data Docs in the folder `docs`. Touches no other file and no network."""
    context = _context(docs)
    source = context.data_sources.add_pandas("data")
    outcomes = []
    for name, (table, suite) in tables.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all lines")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add(suite)))
        checkpoint = gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=[UpdateDataDocsAction(name="docs", site_names=[SITE])],
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES, "unexpected_index_column_names": ["line"]},
        )
        result = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": _escaped(table)})
        for validation in result.run_results.values():
            outcomes += [_outcome(name, found) for found in validation.results]
    return sorted(outcomes, key=lambda outcome: (outcome.table, outcome.description))


def _escaped(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its texts as HTML. Great Expectations puts values into its pages as they are, and a query may hold a script."""
    texts = [column for column in table.columns if pd.api.types.is_string_dtype(table[column])]
    return table.assign(**{column: table[column].map(escape, na_action="ignore") for column in texts})


def _context(docs: Path) -> EphemeralDataContext:
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
        data_docs_sites={
            SITE: {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "show_cta_footer": False},
            }
        },
    )
    # Suites can only be made while a context is the process's current one, and get_context makes it so.
    return gx.get_context(mode="ephemeral", project_config=config)


def _outcome(table: str, found: Any) -> Outcome:
    config, result = found.expectation_config, found.result
    if found.exception_info and found.exception_info.get("raised_exception"):
        observed: Any = found.exception_info["exception_message"]
    elif "unexpected_count" in result:
        observed = {"rows": result["element_count"], "unexpected": result["unexpected_count"]}
    elif "missing_count" in result:
        observed = {"missing": list(result.get("partial_missing_list", []))}
    else:
        observed = result.get("observed_value")
    rows = result.get("partial_unexpected_index_list") or []
    lines = tuple(sorted({int(row["line"]) for row in rows}))
    return Outcome(table, config.type, config.description, config.severity.value, bool(found.success), observed, lines)
