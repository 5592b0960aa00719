"""The expectations on the data, as Great Expectations suites.

Checks must hold. They run twice. On all lines *found*, a failure is a warning, and its page shows the quarantined lines. On the lines
*used*, after the quarantine, a failure is critical: the quarantine has missed something, or no lines remain.
*Advice* runs on the lines used. Its findings are legitimate in some data sets, but should be known.
"""

import gc
from collections.abc import Iterable, Sequence

import great_expectations as gx
from great_expectations import expectations as gxe
from great_expectations.core import ExpectationSuite
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

from reelnest.artifacts.validation_report import Severity
from reelnest.checks.custom_expectations import (
    ExpectColumnPairToHaveOneBForEachA,
    ExpectColumnToBeAlikeInTrainAndTest,
    ExpectColumnValuesToBeBalanced,
)
from reelnest.checks.findings import Finding, finding_of
from reelnest.checks.tables import GOOD, PAIR_COLUMNS, VIDEO_COLUMNS, Table
from reelnest.progress import Activity
from reelnest.records.formats import SPLITS, pair_kind
from reelnest.settings import Validate

RESULT_FORMAT = {"result_format": "SUMMARY", "partial_unexpected_count": 20}
"""A result has the first unexpected values, by their places in the table. With lines instead, Great Expectations would look up all."""

# Usual ranges. A video outside of them is decodable and used, but worth a look.
USUAL_FPS = (1, 120)
USUAL_SIDE = (56, 4096)
SMALLEST_SHARE = 0.01
"""Minimum share of the pairs for each kind of pair that occurs."""

Checked = tuple[Table, Sequence[ExpectationSuite]]
"""A table and the suites that run on it."""

PAIR_KINDS = [pair_kind("text", "video"), pair_kind("video", "text"), pair_kind("text", "text"), pair_kind("video", "video")]


def video_checks(name: str, settings: Validate, severity: Severity) -> ExpectationSuite:
    """Checks on `tables.video_table`."""

    def between(column: str, least: float, most: float, what: str) -> Expectation:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most, severity=severity, description=what)

    return ExpectationSuite(
        name=name,
        expectations=[
            gxe.ExpectTableColumnsToMatchSet(column_set=list(VIDEO_COLUMNS), severity=severity, description="the table has its columns"),
            gxe.ExpectColumnValuesToBeInSet(
                column="verdict", value_set=[GOOD], severity=severity, description="every line is well-formed and its video can be decoded"
            ),
            gxe.ExpectColumnValuesToNotBeNull(column="video_id", severity=severity, description="every video has an id"),
            gxe.ExpectColumnValuesToBeUnique(column="video_id", severity=severity, description="video ids are unique"),
            between("frames", 1, settings.max_video_frames, "a video has frames, and not too many"),
            between("seconds", 0, settings.max_video_seconds, "a video is not too long, in seconds"),
            between("megabytes", 0, settings.max_video_megabytes, "a video's file is not too large, in MiB"),
            between("field_characters", 1, settings.max_text_characters, "a video's text fields are not too long, in characters"),
        ],
    )


def video_advice(name: str, settings: Validate) -> ExpectationSuite:
    """Returns the advice on `tables.video_table`."""

    def between(column: str, least: float, most: float | None, what: str) -> Expectation:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most, severity="warning", description=what)

    def once(column: str, what: str) -> Expectation:
        return gxe.ExpectColumnValuesToBeUnique(column=column, severity="warning", description=what)

    return ExpectationSuite(
        name=name,
        expectations=[
            once("source", "no file is listed under two ids"),
            once("content", "no two ids have files with the same bytes"),
            gxe.ExpectColumnValuesToBeInSet(
                column="paired", value_set=[True], severity="warning", description="every video is the query or target of a pair"
            ),
            between("fps", *USUAL_FPS, "a video has a usual frame rate, in frames a second"),
            between("width", *USUAL_SIDE, "a video has a usual width, in pixels"),
            between("height", *USUAL_SIDE, "a video has a usual height, in pixels"),
            between("brightness", settings.min_brightness, None, "a video is not black"),
            between("contrast", settings.min_contrast, None, "a video has more than one colour"),
            between("change", settings.min_change, None, "a video is not frozen"),
            once("look", "no two videos look almost the same"),
            ExpectColumnPairToHaveOneBForEachA(
                column_A="look", column_B="split", severity="warning", description="videos that look almost the same are in one split"
            ),
            _no_repeated_text("no title of the validation or test split almost repeats one of the train split"),
            _same_scripts("title_script", "titles have the same scripts in train and test", settings),
        ],
    )


def pair_checks(name: str, settings: Validate, severity: Severity) -> ExpectationSuite:
    """Checks on `tables.pair_table`."""

    def in_set(column: str, values: Sequence[str], what: str) -> Expectation:
        return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), severity=severity, description=what)

    def short(column: str, what: str) -> Expectation:
        most = settings.max_text_characters
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=1, max_value=most, severity=severity, description=what)

    return ExpectationSuite(
        name=name,
        expectations=[
            gxe.ExpectTableColumnsToMatchSet(column_set=list(PAIR_COLUMNS), severity=severity, description="the table has its columns"),
            in_set("verdict", [GOOD], "every line is well-formed and names good videos only"),
            gxe.ExpectColumnValuesToBeUnique(column="pair", severity=severity, description="no query and target are in two lines"),
            ExpectColumnPairToHaveOneBForEachA(
                column_A="pair", column_B="split", severity=severity, description="no query and target are in two splits"
            ),
            gxe.ExpectColumnDistinctValuesToContainSet(
                column="split", value_set=["train", "test"], severity=severity, description="there are pairs to train on and to test with"
            ),
            in_set("split", SPLITS, "every split is known"),
            in_set("kind", PAIR_KINDS, "every pair has a known kind"),
            short("query_characters", "a query's text is neither empty nor too long, in characters"),
            short("target_characters", "a target's text is neither empty nor too long, in characters"),
            gxe.ExpectColumnValuesToBeBetween(
                column="relevance", min_value=0, strict_min=True, severity=severity, description="every relevance is above 0"
            ),
        ],
    )


def pair_advice(name: str, settings: Validate) -> ExpectationSuite:
    """Returns the advice on `tables.pair_table`."""

    def in_one_split(column: str, what: str) -> Expectation:
        return ExpectColumnPairToHaveOneBForEachA(column_A=column, column_B="split", severity="warning", description=what)

    return ExpectationSuite(
        name=name,
        expectations=[
            in_one_split("query", "no query is in two splits"),
            in_one_split("target", "no target is in two splits"),
            in_one_split("group", "pairs that a chain of queries and targets joins are in one split"),
            _no_repeated_text("no text of the validation or test split almost repeats one of the train split"),
            _same_scripts("query_script", "queries have the same scripts in train and test", settings),
            _same_scripts("target_script", "targets have the same scripts in train and test", settings),
            ExpectColumnValuesToBeBalanced(
                column="kind", min_share=SMALLEST_SHARE, severity="warning", description="no kind of pair is very rare"
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column="contradicted_negatives",
                value_set=[0],
                severity="warning",
                description="no negative of a query is relevant to it in another line",
            ),
        ],
    )


def _no_repeated_text(what: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeNull(column="repeated", severity="warning", description=what)


def _same_scripts(column: str, what: str, settings: Validate) -> Expectation:
    most = settings.max_script_difference
    return ExpectColumnToBeAlikeInTrainAndTest(column=column, max_difference=most, severity="warning", description=what)


def check(tables: Iterable[Checked], unchanged: Sequence[str] = ()) -> list[Finding]:
    """Runs suites on their table. Uses no files and no network. Holds one table at a time.

    `unchanged` are the names of tables (`videos`, `pairs`) of which all lines found are used. Of these, only the lines used are checked,
    and the results of `…_used` are those of `…_found` too.
    """
    context = _context()
    findings = []
    gc.freeze()  # the records and libraries are not searched for garbage after each table, nor later: the process ends soon
    with Activity("checking the expectations"):
        for table, suites in tables:
            source = context.data_sources.add_pandas("data")
            for suite in suites:
                batch = source.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe("all lines")
                definition = gx.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(suite))
                definition = context.validation_definitions.add(definition)
                result = definition.run(batch_parameters={"dataframe": table.rows}, result_format=RESULT_FORMAT)
                findings += [finding_of(suite.name, table, outcome) for outcome in result.results]
            # The source and its assets hold the table, and each other.
            context.data_sources.delete("data")
            del table, source, batch, definition, result
            gc.collect()
    for name in unchanged:
        findings += [finding.restated(f"{name}_found", "warning") for finding in findings if finding.outcome.suite == f"{name}_used"]
    return sorted(findings, key=lambda finding: (finding.outcome.suite, finding.outcome.description))


def _context() -> EphemeralDataContext:
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
        data_docs_sites={},  # Great Expectations' pages load scripts from the network; report/data_checks/ writes ours
    )
    # Suites can only be created while the process has a current context, which get_context sets.
    return gx.get_context(mode="ephemeral", project_config=config)
