import pandas as pd
import pytest
from great_expectations import expectations as gxe
from great_expectations.core import ExpectationSuite
from great_expectations.expectations.expectation import Expectation

from reelnest.artifacts.validation_report import ExpectationOutcome
from reelnest.checks.custom_expectations import (
    ExpectColumnPairToHaveOneBForEachA,
    ExpectColumnToBeAlikeInTrainAndTest,
    ExpectColumnValuesToBeBalanced,
)
from reelnest.checks.expectations import check, pair_advice, pair_checks, video_advice, video_checks
from reelnest.checks.findings import Example, Finding
from reelnest.checks.tables import Table, pair_table, video_table
from reelnest.records.formats import BadRecord, Pair, Side, Video
from reelnest.records.splits import connected_components
from reelnest.settings import Validate
from reelnest.video.decoder import VideoInfo
from reelnest.video.inspection import Inspected
from reelnest.video.known_videos import Content


def outcome_of(expectation: Expectation, table: pd.DataFrame) -> ExpectationOutcome:
    return finding_of(expectation, table).outcome


def finding_of(expectation: Expectation, table: pd.DataFrame) -> Finding:
    expectation.description = "as expected"
    suite = ExpectationSuite("suite", expectations=[expectation])
    (finding,) = check([(Table(table.assign(line=range(1, len(table) + 1)), {}), [suite])])
    return finding


def test_a_value_of_a_with_two_b_is_found_with_its_lines() -> None:
    table = pd.DataFrame({"pair": ["x", "y", "x", "z", None], "split": ["train", "test", "test", "train", "test"]})
    outcome = outcome_of(ExpectColumnPairToHaveOneBForEachA(column_A="pair", column_B="split"), table)
    assert not outcome.success
    assert outcome.observed == {"rows": 5, "unexpected": 2}
    assert outcome.lines == (1, 3)
    assert outcome_of(ExpectColumnPairToHaveOneBForEachA(column_A="pair", column_B="split"), table.drop(index=2)).success


def test_the_rarest_value_must_have_the_minimum_share() -> None:
    table = pd.DataFrame({"kind": ["a"] * 9 + ["b"]})
    assert outcome_of(ExpectColumnValuesToBeBalanced(column="kind", min_share=0.1), table).success
    outcome = outcome_of(ExpectColumnValuesToBeBalanced(column="kind", min_share=0.11), table)
    assert (outcome.success, outcome.observed) == (False, 0.1)


def test_the_mix_of_train_and_test_may_differ_by_the_maximum() -> None:
    columns = {"split": ["train"] * 200 + ["test"] * 100 + ["validation"] * 50}
    table = pd.DataFrame(columns | {"script": ["a"] * 180 + ["b"] * 20 + ["a"] * 60 + ["b"] * 10 + ["c"] * 30 + ["d"] * 50})
    assert outcome_of(ExpectColumnToBeAlikeInTrainAndTest(column="script", max_difference=0.3), table).success
    finding = finding_of(ExpectColumnToBeAlikeInTrainAndTest(column="script", max_difference=0.29), table)
    assert (finding.outcome.success, finding.outcome.observed) == (False, 0.3)
    assert (finding.columns, finding.allowed) == (("script",), "at most 29\u00a0% of the lines")
    too_few = table.assign(script=table["script"].mask(table.index == 299))
    assert outcome_of(ExpectColumnToBeAlikeInTrainAndTest(column="script", max_difference=0), too_few).observed == 0


def test_a_finding_has_what_is_allowed_and_the_lines_that_fail() -> None:
    table = pd.DataFrame({"pair": ["a → x", "b → x", "c → y"], "target": ["x", "x", "y"], "split": ["train", "test", "test"]})
    finding = finding_of(ExpectColumnPairToHaveOneBForEachA(column_A="target", column_B="split"), table)
    assert finding.columns == ("target", "split")
    assert finding.examples == (Example(1, "a → x", "train"), Example(2, "b → x", "test"))
    assert finding_of(ExpectColumnValuesToBeBalanced(column="split", min_share=0.25), table).allowed == "at least 25\u00a0% of the lines"
    bounds = gxe.ExpectColumnValuesToBeBetween(column="frames", min_value=1, max_value=50_000)
    finding = finding_of(bounds, pd.DataFrame({"video_id": ["cat", None], "frames": [60_000, 0]}))
    assert finding.allowed == "1 to 50,000"
    assert finding.examples == (Example(1, "cat", "60000"), Example(2, "", "0"))
    above = gxe.ExpectColumnValuesToBeBetween(column="relevance", min_value=0, strict_min=True)
    assert finding_of(above, pd.DataFrame({"relevance": [1.0]})).allowed == "above 0"


SETTINGS = Validate(max_text_characters=30)
CAT, DOG, COW = (Side("video", name) for name in ("cat", "dog", "cow"))


def info(
    frames: int = 24, seconds: float = 1.0, fps: float = 24.0, width: int = 64, height: int = 64, content: str = "", size: int = 2**20
) -> Inspected:
    return Inspected(VideoInfo(frames, seconds, fps, width, height), Content(content, size))


def failing_pairs(pairs: list[Pair], splits: list[str], bad: tuple[BadRecord, ...] = ()) -> dict[str, tuple[int, ...]]:
    """The descriptions of the failing expectations, with their lines."""
    table = pair_table(pairs, splits, connected_components(pairs), bad)
    findings = check([(table, [pair_checks("checks", SETTINGS, "critical"), pair_advice("advice", SETTINGS)])])
    return {finding.outcome.description: finding.outcome.lines for finding in findings if not finding.outcome.success}


def failing_videos(videos: list[Video], inspected: dict[str, Inspected], pairs: list[Pair], bad: tuple[BadRecord, ...] = ()) -> set[str]:
    table = video_table(videos, inspected, pairs, bad)
    findings = check([(table, [video_checks("checks", SETTINGS, "critical"), video_advice("advice", SETTINGS)])])
    return {finding.outcome.description for finding in findings if not finding.outcome.success}


def pair(line: int, query: str, target: Side, negatives: tuple[Side, ...] = ()) -> Pair:
    return Pair(Side("text", query), target, 1.0, None, negatives, line)


def test_good_pairs_meet_every_expectation() -> None:
    assert failing_pairs([pair(1, "a cat", CAT), pair(2, "a dog", DOG)], ["train", "test"]) == {}


def test_a_video_in_train_and_test_is_named_with_its_lines() -> None:
    pairs = [pair(1, "a cat", CAT), pair(2, "a dog", DOG), pair(3, "a kitten", CAT)]
    assert failing_pairs(pairs, ["train", "train", "test"]) == {
        "no target is in two splits": (1, 3),
        "pairs that a chain of queries and targets joins are in one split": (1, 3),
    }


def test_a_query_and_target_in_two_splits_are_named_with_their_lines() -> None:
    failing = failing_pairs([pair(1, "a cat", CAT), pair(2, "a cat", CAT)], ["train", "test"])
    assert failing["no query and target are in two splits"] == (1, 2)
    assert failing["no query and target are in two lines"] == (1, 2)
    assert failing["no query is in two splits"] == (1, 2)


def test_pairs_without_a_test_split_are_not_as_expected() -> None:
    assert set(failing_pairs([pair(1, "a cat", CAT)], ["train"])) == {"there are pairs to train on and to test with"}


def test_an_empty_table_of_pairs_is_not_as_expected() -> None:
    assert "there are pairs to train on and to test with" in failing_pairs([], [])


def test_long_texts_rare_kinds_and_contradicted_negatives_are_found() -> None:
    pairs = [pair(line, f"query {line}", Side("video", f"{line}")) for line in range(1, 151)]
    pairs[0] = pair(1, "x" * 31, CAT)
    pairs[1] = pair(2, "two", CAT)
    pairs[2] = pair(3, "two", DOG, negatives=(CAT,))
    pairs[3] = Pair(COW, Side("text", "y" * 31), 1.0, None, (), 4)
    failing = failing_pairs(pairs, ["train", "train", "train", "train"] + ["test"] * 146)
    assert failing == {
        "a query's text is neither empty nor too long, in characters": (1,),
        "a target's text is neither empty nor too long, in characters": (4,),
        "no kind of pair is very rare": (),
        "no negative of a query is relevant to it in another line": (3,),
    }


def test_a_bad_line_without_a_pair_is_found() -> None:
    bad = (BadRecord("pairs.jsonl", 2, "bad_json", "half"),)
    failing = failing_pairs([pair(1, "a cat", CAT), pair(3, "a dog", DOG)], ["train", "test"], bad)
    assert failing == {"every line is well-formed and names good videos only": (2,)}


def test_good_videos_meet_every_expectation() -> None:
    videos = [Video("cat", "cat.mp4", (), {"title": "A cat"}, 1), Video("dog", None, ("1.png", "2.png"), {}, 2)]
    inspected = {"cat": info(content="1"), "dog": info(content="2")}
    assert failing_videos(videos, inspected, [pair(1, "a cat", CAT), pair(2, "a dog", DOG)]) == set()


@pytest.mark.parametrize(
    ("inspected", "description"),
    [
        (info(frames=50_001), "a video has frames, and not too many"),
        (info(seconds=3600.5), "a video is not too long, in seconds"),
        (info(size=2001 * 2**20), "a video's file is not too large, in MiB"),
        (info(fps=0.2), "a video has a usual frame rate, in frames a second"),
        (info(width=16), "a video has a usual width, in pixels"),
        (info(height=8192), "a video has a usual height, in pixels"),
    ],
)
def test_a_video_outside_the_bounds_is_found(inspected: Inspected, description: str) -> None:
    videos = [Video("cat", "cat.mp4", (), {}, 1)]
    assert failing_videos(videos, {"cat": inspected}, [pair(1, "a cat", CAT)]) == {description}


def test_a_file_twice_the_same_bytes_twice_and_a_video_in_no_pair_are_found() -> None:
    videos = [Video("cat", "a.mp4", (), {}, 1), Video("dog", "a.mp4", (), {"asr": "x" * 31}, 2)]
    inspected = {"cat": info(content="same"), "dog": info(content="same")}
    assert failing_videos(videos, inspected, [pair(1, "a cat", CAT)]) == {
        "no file is listed under two ids",
        "no two ids have files with the same bytes",
        "every video is the query or target of a pair",
        "a video's text fields are not too long, in characters",
    }


def test_a_data_set_without_videos_is_as_expected() -> None:
    assert failing_videos([], {}, [pair(1, "a cat", Side("text", "cats"))]) == set()


def test_the_lines_of_a_pair_table_are_shown_with_their_texts() -> None:
    pairs = [pair(1, "a cat", CAT), pair(3, "a dog", CAT), pair(4, "a cat", CAT)]
    bad = (BadRecord("pairs.jsonl", 2, "bad_json", "half"),)
    table = pair_table(pairs, ["train", "test", "train"], connected_components(pairs), bad)
    assert table.rows["line"].tolist() == [1, 2, 3, 4]
    findings = {
        finding.outcome.description: finding
        for finding in check([(table, [pair_checks("c", SETTINGS, "critical"), pair_advice("a", SETTINGS)])])
    }
    repeated = findings["no query and target are in two lines"]
    assert repeated.examples == tuple(Example(line, "text: a cat → video: cat", "") for line in (1, 4))
    group = findings["pairs that a chain of queries and targets joins are in one split"]
    assert group.examples[1] == Example(3, "text: a dog → video: cat", "text: a cat, test")
    assert findings["every line is well-formed and names good videos only"].examples == (Example(2, "", "bad_json"),)
