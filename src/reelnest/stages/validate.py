"""Validation: decides which records can be used, and whether the data as a whole can.

Reads `data/`; writes `reports/quarantine.jsonl` (the records that later stages leave out), `reports/behaviour.jsonl` (the valid behaviour
tests), `reports/validation.json` and `reports/data_docs/` (the same as a page). All files are written even if the stage then fails.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from reelnest.artifacts.validation_report import (
    BehaviourCounts,
    ExpectationOutcome,
    LostQueries,
    PairCounts,
    Quarantined,
    ValidationReport,
    VideoCounts,
)
from reelnest.atomic_files import atomic_folder
from reelnest.backbones.registry import local_family_of
from reelnest.checks.data_warnings import data_warnings
from reelnest.checks.expectations import Checked, check, pair_advice, pair_checks, video_advice, video_checks
from reelnest.checks.tables import pair_table, side_name, similar_videos, video_splits, video_table
from reelnest.checks.texts import pair_texts, titles
from reelnest.errors import DataError
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE, KINDS, BehaviourTest, belong_to_other_data, read_behaviour, write_behaviour
from reelnest.records.formats import PAIRS_FILE, VIDEOS_FILE, BadRecord, Pair, Side, known_ids, read_pairs, read_videos, write_quarantine
from reelnest.records.pair_segments import cut_videos, segmented_files
from reelnest.records.quarantine import count_by_reason, quarantine_pairs, quarantine_videos, queries_without_target
from reelnest.records.splits import connected_components, count_pairs, splits_of
from reelnest.report.data_checks.flagged_videos import pictures_of
from reelnest.report.data_checks.validation_page import SHOWN_EXAMPLES, write_validation_page
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace
from reelnest.store.frame_sink import frame_sink
from reelnest.video.decoder import Limits
from reelnest.video.frames import FrameSettings
from reelnest.video.inspection import FrameSink, Inspected, inspect_videos
from reelnest.video.known_videos import KnownVideos

log = logging.getLogger(__name__)

NAMED = 100
"""How many queries without a target the report names; it counts all of them."""


def run(workspace: Workspace, params: Params) -> None:
    """Runs the stage. Raises DataError if too many records are bad, the train or test split is empty, or a critical expectation fails."""
    settings, data = params.validation, params.data
    videos, bad_videos = read_videos(workspace.data)
    pairs, bad_pairs = read_pairs(workspace.data, known_ids(videos, bad_videos))
    lines = {VIDEOS_FILE: len(videos) + len(bad_videos), PAIRS_FILE: len(pairs) + len(bad_pairs)}

    readable, long = quarantine_videos(videos, settings.max_text_characters)
    cut, pairs, uncut = cut_videos(readable, pairs)
    bad_pairs += uncut
    files = segmented_files([*videos, *cut])
    with KnownVideos(workspace.frames) as known:
        limits, sink = Limits.of(settings), _sink(params, workspace)
        decodable, undecodable = inspect_videos([*readable, *cut], workspace.data, limits, known, params.preprocess.decoder, sink)
    cut_ids = {video.video_id for video in cut}
    inspected = {video_id: facts for video_id, facts in decodable.items() if video_id not in cut_ids}
    bad_videos += long + [record for record in undecodable if record.video_id not in cut_ids]
    good_videos = [video for video in videos if video.video_id in inspected]
    # An id refers to its first good line, so a bad line that repeats the id does not affect its pairs.
    reasons = {record.video_id: record.reason for record in bad_videos if record.video_id and record.video_id not in inspected}
    reasons |= {record.video_id: record.detail for record in undecodable if record.video_id in cut_ids}
    fractions = data.validation_fraction, data.test_fraction
    good, unusable = quarantine_pairs(pairs, reasons, settings.max_text_characters, *fractions, files)
    bad_pairs += unusable
    tests, bad_tests = read_behaviour(workspace.data, inspected, reasons, settings.max_text_characters)
    of_other_data = len(tests) + len(bad_tests) if belong_to_other_data(tests, bad_tests) else 0
    if of_other_data:
        tests, bad_tests = [], []
    lines[BEHAVIOUR_FILE] = len(tests) + len(bad_tests)
    found_groups = connected_components(pairs, files)
    groups = found_groups if len(good) == len(pairs) else connected_components(good, files)
    splits = splits_of(good, groups, *fractions)

    bad = bad_videos + bad_pairs + bad_tests
    write_quarantine(workspace.reports / "quarantine.jsonl", bad)
    write_behaviour(workspace.reports / BEHAVIOUR_FILE, tests)

    pair_facts = pair_texts(good, splits, settings.min_near_duplicate_similarity)
    title_facts = titles(good_videos, video_splits(good, splits), settings.min_near_duplicate_similarity)

    def tables() -> Iterator[Checked]:
        if bad_videos:
            yield video_table(videos, inspected, pairs, bad_videos), [video_checks("videos_found", settings, "warning")]
        used = [video_checks("videos_used", settings, "critical"), video_advice("videos_advice", settings)]
        looks = similar_videos(good_videos, inspected, settings)
        yield video_table(good_videos, inspected, good, splits=splits, looks=looks, texts=title_facts), used
        if bad_pairs:
            found_splits = splits_of(pairs, found_groups, *fractions)
            yield pair_table(pairs, found_splits, found_groups, bad_pairs), [pair_checks("pairs_found", settings, "warning")]
        used = [pair_checks("pairs_used", settings, "critical"), pair_advice("pairs_advice", settings)]
        yield pair_table(good, splits, groups, texts=pair_facts), used

    findings = check(tables(), [name for name, records in (("videos", bad_videos), ("pairs", bad_pairs)) if not records])
    outcomes = [finding.outcome for finding in findings]
    fault = _fault(bad, sum(lines.values()), settings.max_quarantined_fraction, len(set(groups)), splits, outcomes)
    report = ValidationReport(
        passed=fault is None,
        videos=_video_counts(lines[VIDEOS_FILE], len(good_videos), inspected),
        pairs=PairCounts(lines=lines[PAIRS_FILE], good=len(good), by_split_and_kind=count_pairs(good, splits)),
        quarantined=Quarantined(
            records=len(bad),
            fraction=round(_fraction(len(bad), sum(lines.values())), 6),
            allowed_fraction=settings.max_quarantined_fraction,
            by_reason=count_by_reason(bad),
        ),
        behaviour=_behaviour(tests, len(bad_tests), of_other_data, good, splits),
        queries_without_target=_lost_queries(pairs, good, unusable),
        expectations=tuple(outcomes),
        texts={name: facts.counts() for name, facts in (("pairs", pair_facts), ("titles", title_facts))},
        warnings=tuple(data_warnings(good, splits)),
    )
    report.write(workspace.reports)
    with atomic_folder(workspace.reports / "data_docs") as folder:
        shown = {} if sink is None else pictures_of(findings, good_videos, workspace.data, limits, sink.settings, SHOWN_EXAMPLES)
        write_validation_page(folder / "index.html", report, findings, bad, fault, shown)
    _log(report)
    if fault is not None:
        raise DataError(fault)


def _video_counts(lines: int, good: int, inspected: Mapping[str, Inspected]) -> VideoCounts:
    return VideoCounts(
        lines=lines,
        good=good,
        frames=sum(video.info.frames for video in inspected.values()),
        seconds=round(math.fsum(video.info.seconds for video in inspected.values()), 3),
        by_decoder=dict(sorted(Counter(video.info.decoder for video in inspected.values()).items())),
        megabytes=round(sum(video.content.bytes for video in inspected.values()) / 2**20, 3),
    )


def _sink(params: Params, workspace: Workspace) -> FrameSink | None:
    """Caches frames for preprocessing. None if only the Hub knows the model's family."""
    family = local_family_of(params.model)
    return None if family is None else frame_sink(FrameSettings(params.preprocess, family.vision), workspace.frames)


def _fraction(count: int, total: int) -> float:
    return count / total if total else 0.0


def _lost_queries(pairs: Sequence[Pair], good: Sequence[Pair], bad: Sequence[BadRecord]) -> LostQueries:
    """The queries whose pairs were all quarantined, and for what reasons."""
    lost = queries_without_target(pairs, good)
    reasons = {record.line: record.reason for record in bad}
    taken = set(lost)
    by_reason = Counter(reasons[pair.line] for pair in pairs if pair.query in taken)
    return LostQueries(count=len(lost), pairs_by_reason=dict(by_reason), queries=tuple(sorted(map(side_name, lost))[:NAMED]))


def _behaviour(
    tests: Sequence[BehaviourTest], bad: int, of_other_data: int, pairs: Sequence[Pair], splits: Sequence[str]
) -> BehaviourCounts:
    """Counts the behaviour tests by kind, and those that use texts or videos of the train split, which are easier to pass."""
    trained = {side for pair, split in zip(pairs, splits, strict=True) if split == "train" for side in (pair.query, pair.target)}
    trained |= {Side("video", side.source) for side in trained if side.segment is not None}
    known = [
        test
        for test in tests
        if any(Side("text", text) in trained for text in test.texts)
        or any(Side("video", video) in trained for video in (*test.video, *test.above))
    ]
    by_kind = {kind: sum(test.kind == kind for test in tests) for kind in KINDS}
    return BehaviourCounts(
        lines=len(tests) + bad + of_other_data,
        good=len(tests),
        by_kind=dict(by_kind),
        of_training=len(known),
        of_other_data=of_other_data,
    )


def _fault(
    bad: Sequence[BadRecord],
    records: int,
    allowed: float,
    groups: int,
    splits: Sequence[str],
    outcomes: Sequence[ExpectationOutcome],
) -> str | None:
    """Why the data cannot be used; None if it can."""
    where = "reports/quarantine.jsonl lists each with its line and what to do; reports/data_docs/index.html has all checks."
    if _fraction(len(bad), records) > allowed:
        share = f"{len(bad)} of {records} records ({len(bad) / records:.1%}) are bad, more than validate.max_quarantined_fraction allows"
        first = f"The first is on line {bad[0].line} of {bad[0].file}: {bad[0].detail}."
        return f"{share} ({allowed:.1%}): {_counts(bad)}.\n{first} {where} Repair them, or raise the limit."
    for split in ("train", "test"):
        if split not in splits:
            problem = f"the {split} split has no pairs: {len(splits)} good pairs form {groups} groups without a common query or target"
            advice = "Add pairs, give some of them a `split`, or change data.validation_fraction and data.test_fraction."
            quarantined = f" Bad: {_counts(bad)}. {where}" if bad else ""
            return f"{problem}, and a group is never divided between splits.{quarantined} {advice}"
    failed = [outcome for outcome in outcomes if outcome.severity == "critical" and not outcome.success]
    if failed:
        problems = "; ".join(f"{outcome.suite}: {outcome.summary}" for outcome in failed)
        return f"the data fails {len(failed)} checks. {problems}. See reports/data_docs/index.html."
    return None


def _counts(bad: Sequence[BadRecord]) -> str:
    return "; ".join(f"{file}: {_listed(reasons)}" for file, reasons in count_by_reason(bad).items())


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _log(report: ValidationReport) -> None:
    videos, pairs, lost, outcomes = report.videos, report.pairs, report.queries_without_target, report.expectations
    log.info(
        "%d of %d videos and %d of %d pairs are good; %d expectations passed, %d failed",
        *(videos.good, videos.lines, pairs.good, pairs.lines),
        *(sum(outcome.success for outcome in outcomes), sum(not outcome.success for outcome in outcomes)),
    )
    tests = report.behaviour
    if tests.of_other_data:
        log.warning(
            "data/%s is not used: most of its %d tests name videos that are not in data/%s. Delete it, or write tests for this data.",
            *(BEHAVIOUR_FILE, tests.of_other_data, VIDEOS_FILE),
        )
    elif tests.lines:
        log.info("%d of %d behaviour tests are good", tests.good, tests.lines)
    else:
        log.info("no behaviour tests: data/%s is missing or empty", BEHAVIOUR_FILE)
    if tests.of_training:
        log.warning("%d behaviour tests use texts or videos of the train split, so they are easier to pass", tests.of_training)
    for file, reasons in report.quarantined.by_reason.items():
        log.warning("quarantined from %s: %s", file, _listed(reasons))
    if lost.count:
        log.warning("%d queries have no target left; see queries_without_target in reports/validation.json", lost.count)
    for warning in report.warnings:
        log.warning("%s", warning)
    for outcome in outcomes:
        # Bad records are in the counts of the quarantine above.
        if not outcome.success and not outcome.suite.endswith("_found"):
            log.warning("%s: %s (%s)", outcome.severity, outcome.summary, outcome.suite)
