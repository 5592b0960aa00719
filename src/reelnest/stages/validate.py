"""Validation: decides which records can be used, and whether the data as a whole can.

Reads `data/`; writes `reports/quarantine.jsonl` (the records that later stages leave out), `reports/behaviour.jsonl` (the valid behaviour
tests), `reports/validation.json` and `reports/data_docs/` (the same as a page). All files are written even if the stage then fails.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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
from reelnest.checks.texts import Texts, pair_texts, titles
from reelnest.errors import DataError
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE, KINDS, BehaviourTest, belong_to_other_data, read_behaviour, write_behaviour
from reelnest.records.formats import (
    PAIRS_FILE,
    VIDEOS_FILE,
    BadRecord,
    Pair,
    Side,
    Video,
    known_ids,
    read_pairs,
    read_videos,
    write_quarantine,
)
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


@dataclass(frozen=True)
class _Records:
    """The records of `data/`, divided into those that are used and the quarantined lines."""

    lines: Mapping[str, int]
    """By file, how many there are, without the behaviour tests of other data."""
    videos: Sequence[Video]
    """All that are well-formed."""
    good_videos: Sequence[Video]
    inspected: Mapping[str, Inspected]
    """The good videos' facts, by video_id."""
    bad_videos: Sequence[BadRecord]
    pairs: Sequence[Pair]
    """All that are well-formed."""
    good_pairs: Sequence[Pair]
    bad_pairs: Sequence[BadRecord]
    tests: Sequence[BehaviourTest]
    bad_tests: Sequence[BadRecord]
    tests_of_other_data: int
    """Behaviour tests that are left out, because most of their videos are in another data set."""
    files: Mapping[str, str]
    """`segmented_files` of the videos and of the segments that pairs name."""
    groups: Sequence[int]
    """The connected component of each good pair."""
    splits: Sequence[str]
    """The split of each good pair."""

    @cached_property
    def bad(self) -> list[BadRecord]:
        return [*self.bad_videos, *self.bad_pairs, *self.bad_tests]

    @property
    def bad_fraction(self) -> float:
        lines = sum(self.lines.values())
        return len(self.bad) / lines if lines else 0.0


def run(workspace: Workspace, params: Params) -> None:
    """Runs the stage. Raises DataError if too many records are bad, the train or test split is empty, or a critical expectation fails."""
    settings, sink = params.validation, _sink(params, workspace)
    records = _read(workspace, params, sink)
    write_quarantine(workspace.reports / "quarantine.jsonl", records.bad)
    write_behaviour(workspace.reports / BEHAVIOUR_FILE, records.tests)

    texts = _texts(records, settings.min_near_duplicate_similarity)
    unchanged = [name for name, bad in (("videos", records.bad_videos), ("pairs", records.bad_pairs)) if not bad]
    findings = check(_tables(records, texts, params), unchanged)
    fault = _fault(records, settings.max_quarantined_fraction, [finding.outcome for finding in findings])
    report = ValidationReport(
        passed=fault is None,
        videos=_video_counts(records),
        pairs=PairCounts(
            lines=records.lines[PAIRS_FILE],
            good=len(records.good_pairs),
            by_split_and_kind=count_pairs(records.good_pairs, records.splits),
        ),
        quarantined=Quarantined(
            records=len(records.bad),
            fraction=round(records.bad_fraction, 6),
            allowed_fraction=settings.max_quarantined_fraction,
            by_reason=count_by_reason(records.bad),
        ),
        behaviour=_behaviour(records),
        queries_without_target=_lost_queries(records),
        expectations=tuple(finding.outcome for finding in findings),
        texts={name: facts.counts() for name, facts in texts.items()},
        warnings=tuple(data_warnings(records.good_pairs, records.splits)),
    )
    report.write(workspace.reports)
    with atomic_folder(workspace.reports / "data_docs") as folder:
        limits = Limits.of(settings)
        shown = {} if sink is None else pictures_of(findings, records.good_videos, workspace.data, limits, sink.settings, SHOWN_EXAMPLES)
        write_validation_page(folder / "index.html", report, findings, records.bad, fault, shown)
    _log(report)
    if fault is not None:
        raise DataError(fault)


def _read(workspace: Workspace, params: Params, sink: FrameSink | None) -> _Records:
    """Reads and inspects all records. Segments that pairs name are inspected as videos, but are none of the data's."""
    settings, data = params.validation, params.data
    videos, bad_videos = read_videos(workspace.data)
    pairs, bad_pairs = read_pairs(workspace.data, known_ids(videos, bad_videos))
    lines = {VIDEOS_FILE: len(videos) + len(bad_videos), PAIRS_FILE: len(pairs) + len(bad_pairs)}

    short, long = quarantine_videos(videos, settings.max_text_characters)
    segments, pairs, uncut = cut_videos(short, pairs)
    with KnownVideos(workspace.frames) as known:
        limits, decoder = Limits.of(settings), params.preprocess.decoder
        inspected, undecodable = inspect_videos([*short, *segments], workspace.data, limits, known, decoder, sink)
    segment_ids = {segment.video_id for segment in segments}
    inspected = {video_id: facts for video_id, facts in inspected.items() if video_id not in segment_ids}
    bad_videos += long + [record for record in undecodable if record.video_id not in segment_ids]
    # An id refers to its first good line, so a bad line that repeats the id does not affect its pairs.
    reasons = {record.video_id: record.reason for record in bad_videos if record.video_id and record.video_id not in inspected}
    reasons |= {record.video_id: record.detail for record in undecodable if record.video_id in segment_ids}

    files, fractions = segmented_files([*videos, *segments]), (data.validation_fraction, data.test_fraction)
    good_pairs, unusable = quarantine_pairs(pairs, reasons, settings.max_text_characters, *fractions, files)
    tests, bad_tests = read_behaviour(workspace.data, inspected, reasons, settings.max_text_characters)
    other_tests = len(tests) + len(bad_tests) if belong_to_other_data(tests, bad_tests) else 0
    if other_tests:
        tests, bad_tests = [], []
    lines[BEHAVIOUR_FILE] = len(tests) + len(bad_tests)
    groups = connected_components(good_pairs, files)
    return _Records(
        lines=lines,
        videos=videos,
        good_videos=[video for video in videos if video.video_id in inspected],
        inspected=inspected,
        bad_videos=bad_videos,
        pairs=pairs,
        good_pairs=good_pairs,
        bad_pairs=bad_pairs + uncut + unusable,
        tests=tests,
        bad_tests=bad_tests,
        tests_of_other_data=other_tests,
        files=files,
        groups=groups,
        splits=splits_of(good_pairs, groups, *fractions),
    )


def _texts(records: _Records, least: float) -> dict[str, Texts]:
    split_of = video_splits(records.good_pairs, records.splits)
    return {"pairs": pair_texts(records.good_pairs, records.splits, least), "titles": titles(records.good_videos, split_of, least)}


def _tables(records: _Records, texts: Mapping[str, Texts], params: Params) -> Iterator[Checked]:
    """Makes one table at a time, with the suites that run on it."""
    settings, data, inspected = params.validation, params.data, records.inspected
    good_videos, good_pairs, splits = records.good_videos, records.good_pairs, records.splits
    if records.bad_videos:
        all_lines = video_table(records.videos, inspected, records.pairs, records.bad_videos)
        yield all_lines, [video_checks("videos_found", settings, "warning")]
    looks = similar_videos(good_videos, inspected, settings)
    suites = [video_checks("videos_used", settings, "critical"), video_advice("videos_advice", settings)]
    yield video_table(good_videos, inspected, good_pairs, splits=splits, looks=looks, texts=texts["titles"]), suites
    if records.bad_pairs:
        groups = connected_components(records.pairs, records.files)
        all_splits = splits_of(records.pairs, groups, data.validation_fraction, data.test_fraction)
        yield pair_table(records.pairs, all_splits, groups, records.bad_pairs), [pair_checks("pairs_found", settings, "warning")]
    suites = [pair_checks("pairs_used", settings, "critical"), pair_advice("pairs_advice", settings)]
    yield pair_table(good_pairs, splits, records.groups, texts=texts["pairs"]), suites


def _video_counts(records: _Records) -> VideoCounts:
    inspected = records.inspected.values()
    return VideoCounts(
        lines=records.lines[VIDEOS_FILE],
        good=len(records.good_videos),
        frames=sum(video.info.frames for video in inspected),
        seconds=round(math.fsum(video.info.seconds for video in inspected), 3),
        by_decoder=dict(sorted(Counter(video.info.decoder for video in inspected).items())),
        megabytes=round(sum(video.content.bytes for video in inspected) / 2**20, 3),
    )


def _sink(params: Params, workspace: Workspace) -> FrameSink | None:
    """Caches frames for preprocessing. None if only the Hub knows the model's family."""
    family = local_family_of(params.model)
    return None if family is None else frame_sink(FrameSettings(params.preprocess, family.vision), workspace.frames)


def _lost_queries(records: _Records) -> LostQueries:
    """Counts the queries whose pairs were all quarantined, by their reasons."""
    lost = queries_without_target(records.pairs, records.good_pairs)
    reasons = {record.line: record.reason for record in records.bad_pairs}
    taken = set(lost)
    by_reason = Counter(reasons[pair.line] for pair in records.pairs if pair.query in taken)
    return LostQueries(count=len(lost), pairs_by_reason=dict(by_reason), queries=tuple(sorted(map(side_name, lost))[:NAMED]))


def _behaviour(records: _Records) -> BehaviourCounts:
    """Counts the behaviour tests by kind, and those that use texts or videos of the train split, which are easier to pass."""
    pairs = zip(records.good_pairs, records.splits, strict=True)
    trained = {side for pair, split in pairs if split == "train" for side in (pair.query, pair.target)}
    trained |= {Side("video", side.source) for side in trained if side.segment is not None}
    of_training = [
        test
        for test in records.tests
        if any(Side("text", text) in trained for text in test.texts)
        or any(Side("video", video) in trained for video in (*test.video, *test.above))
    ]
    return BehaviourCounts(
        lines=records.lines[BEHAVIOUR_FILE] + records.tests_of_other_data,
        good=len(records.tests),
        by_kind={kind: sum(test.kind == kind for test in records.tests) for kind in KINDS},
        of_training=len(of_training),
        of_other_data=records.tests_of_other_data,
    )


def _fault(records: _Records, allowed: float, outcomes: Sequence[ExpectationOutcome]) -> str | None:
    """Returns why the data cannot be used; None if it can."""
    bad = records.bad
    where = "reports/quarantine.jsonl lists each with its line and what to do; reports/data_docs/index.html has all checks."
    if records.bad_fraction > allowed:
        share = f"{len(bad)} of {sum(records.lines.values())} records ({records.bad_fraction:.1%}) are bad"
        limit = f"more than validate.max_quarantined_fraction allows ({allowed:.1%})"
        first = f"The first is on line {bad[0].line} of {bad[0].file}: {bad[0].detail}."
        return f"{share}, {limit}: {_counts(bad)}.\n{first} {where} Repair them, or raise the limit."
    for split in ("train", "test"):
        if split not in records.splits:
            pairs = f"{len(records.good_pairs)} good pairs form {len(set(records.groups))} groups without a common query or target"
            problem = f"the {split} split has no pairs: {pairs}, and a group is never divided between splits."
            advice = "Add pairs, give some of them a `split`, or change data.validation_fraction and data.test_fraction."
            return f"{problem}{f' Bad: {_counts(bad)}. {where}' if bad else ''} {advice}"
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
