from pathlib import Path

import pandas as pd
import pytest
from great_expectations.core import ExpectationSuite
from great_expectations.expectations.expectation import Expectation

from reelnest.artifacts.validation_report import ExpectationOutcome
from reelnest.checks.custom_expectations import ExpectColumnPairToHaveOneBForEachA, ExpectColumnValuesToBeBalanced
from reelnest.checks.expectations import check, pair_advice, pair_checks, video_advice, video_checks
from reelnest.checks.tables import Looked, pair_table, video_table
from reelnest.records.formats import BadRecord, Pair, Side, Video
from reelnest.settings import Validate
from reelnest.video.decoder import VideoInfo
from reelnest.video.inspection import Inspected


def outcome_of(expectation: Expectation, table: pd.DataFrame, docs: Path) -> ExpectationOutcome:
    suite = ExpectationSuite("suite", expectations=[expectation])
    (outcome,) = check({"table": (table.assign(line=range(1, len(table) + 1)), suite)}, docs)
    return outcome


def test_a_value_of_a_with_two_b_is_found_with_its_lines(tmp_path: Path) -> None:
    table = pd.DataFrame({"pair": ["x", "y", "x", "z", None], "split": ["train", "test", "test", "train", "test"]})
    outcome = outcome_of(ExpectColumnPairToHaveOneBForEachA(column_A="pair", column_B="split"), table, tmp_path)
    assert not outcome.success
    assert outcome.observed == {"rows": 5, "unexpected": 2}
    assert outcome.lines == (1, 3)
    assert outcome_of(ExpectColumnPairToHaveOneBForEachA(column_A="pair", column_B="split"), table.drop(index=2), tmp_path).success


def test_the_rarest_value_is_measured_against_the_share_asked_for(tmp_path: Path) -> None:
    table = pd.DataFrame({"kind": ["a"] * 9 + ["b"]})
    assert outcome_of(ExpectColumnValuesToBeBalanced(column="kind", min_share=0.1), table, tmp_path).success
    outcome = outcome_of(ExpectColumnValuesToBeBalanced(column="kind", min_share=0.11), table, tmp_path)
    assert (outcome.success, outcome.observed) == (False, 0.1)


def test_the_pages_say_in_words_what_our_own_expectations_expect(tmp_path: Path) -> None:
    table = pd.DataFrame({"line": [1, 2], "kind": ["a", "b"], "split": ["train", "test"]})
    suite = ExpectationSuite(
        "suite",
        expectations=[
            ExpectColumnValuesToBeBalanced(column="kind", min_share=0.25),
            ExpectColumnPairToHaveOneBForEachA(column_A="kind", column_B="split"),
        ],
    )
    check({"table": (table, suite)}, tmp_path)
    page = (tmp_path / "expectations" / "suite.html").read_text(encoding="utf-8")
    assert "must have at least" in page
    assert "alone." in page


SETTINGS = Validate(max_text_characters=30)
CAT, DOG, COW = (Side("video", name) for name in ("cat", "dog", "cow"))


def info(frames: int = 24, seconds: float = 1.0, fps: float = 24.0, width: int = 64, height: int = 64) -> Inspected:
    return Inspected(VideoInfo(frames, seconds, fps, width, height), 2**20)


def failing_pairs(pairs: list[Pair], splits: list[str], docs: Path, bad: tuple[BadRecord, ...] = ()) -> dict[str, tuple[int, ...]]:
    """The descriptions of the expectations that do not hold, with the lines found."""
    table = pair_table(pairs, splits, bad)
    outcomes = check({"checks": (table, pair_checks("checks", SETTINGS, "critical")), "advice": (table, pair_advice("advice"))}, docs)
    return {outcome.description: outcome.lines for outcome in outcomes if not outcome.success}


def failing_videos(videos: list[Video], looked: Looked, pairs: list[Pair], docs: Path, bad: tuple[BadRecord, ...] = ()) -> set[str]:
    table = video_table(videos, looked, pairs, bad)
    suites = {"checks": (table, video_checks("checks", SETTINGS, "critical")), "advice": (table, video_advice("advice", SETTINGS))}
    outcomes = check(suites, docs)
    return {outcome.description for outcome in outcomes if not outcome.success}


def pair(line: int, query: str, target: Side, negatives: tuple[Side, ...] = ()) -> Pair:
    return Pair(Side("text", query), target, 1.0, None, negatives, line)


def test_good_pairs_meet_every_expectation(tmp_path: Path) -> None:
    assert failing_pairs([pair(1, "a cat", CAT), pair(2, "a dog", DOG)], ["train", "test"], tmp_path) == {}


def test_a_video_in_train_and_test_is_named_with_its_lines(tmp_path: Path) -> None:
    pairs = [pair(1, "a cat", CAT), pair(2, "a dog", DOG), pair(3, "a kitten", CAT)]
    assert failing_pairs(pairs, ["train", "train", "test"], tmp_path) == {
        "no target is in two splits": (1, 3),
        "pairs that a chain of queries and targets joins are in one split": (1, 3),
    }


def test_a_query_and_target_in_two_splits_are_named_with_their_lines(tmp_path: Path) -> None:
    found = failing_pairs([pair(1, "a cat", CAT), pair(2, "a cat", CAT)], ["train", "test"], tmp_path)
    assert found["no query and target are in two splits"] == (1, 2)
    assert found["no query and target stand in two lines"] == (1, 2)
    assert found["no query is in two splits"] == (1, 2)


def test_pairs_without_a_test_split_are_not_as_expected(tmp_path: Path) -> None:
    assert set(failing_pairs([pair(1, "a cat", CAT)], ["train"], tmp_path)) == {"there are pairs to train on and to test with"}


def test_no_pairs_at_all_are_not_as_expected_and_no_crash(tmp_path: Path) -> None:
    assert "there are pairs to train on and to test with" in failing_pairs([], [], tmp_path)


def test_long_texts_rare_kinds_and_contradicted_negatives_are_found(tmp_path: Path) -> None:
    pairs = [pair(line, f"query {line}", Side("video", f"{line}")) for line in range(1, 151)]
    pairs[0] = pair(1, "x" * 31, CAT)
    pairs[1] = pair(2, "two", CAT)
    pairs[2] = pair(3, "two", DOG, negatives=(CAT,))
    pairs[3] = Pair(COW, Side("text", "y" * 31), 1.0, None, (), 4)
    found = failing_pairs(pairs, ["train", "train", "train", "train"] + ["test"] * 146, tmp_path)
    assert found == {
        "a query's text is neither empty nor too long": (1,),
        "a target's text is neither empty nor too long": (4,),
        "no kind of pair that is there is very rare": (),
        "no negative of a query is its right answer in another line": (3,),
    }


def test_a_bad_line_is_found_though_nothing_more_is_known_of_it(tmp_path: Path) -> None:
    bad = (BadRecord("pairs.jsonl", 2, "bad_json", "half"),)
    found = failing_pairs([pair(1, "a cat", CAT), pair(3, "a dog", DOG)], ["train", "test"], tmp_path, bad)
    assert found == {"every line is well-formed and names good videos only": (2,)}


def test_good_videos_meet_every_expectation(tmp_path: Path) -> None:
    videos = [Video("cat", "cat.mp4", (), {"title": "A cat"}, 1), Video("dog", None, ("1.png", "2.png"), {}, 2)]
    looked = Looked({"cat": info(), "dog": info()}, {"cat": "1", "dog": "2"})
    assert failing_videos(videos, looked, [pair(1, "a cat", CAT), pair(2, "a dog", DOG)], tmp_path) == set()


@pytest.mark.parametrize(
    ("found", "description"),
    [
        (info(frames=50_001), "a video has frames, and not too many"),
        (info(seconds=3600.5), "a video is not too long"),
        (Inspected(info().info, 2001 * 2**20), "a video's file is not too large"),
        (info(fps=0.2), "a video has a usual frame rate"),
        (info(width=16), "a video has a usual width, in pixels"),
        (info(height=8192), "a video has a usual height, in pixels"),
    ],
)
def test_a_video_outside_the_bounds_is_found(tmp_path: Path, found: Inspected, description: str) -> None:
    videos = [Video("cat", "cat.mp4", (), {}, 1)]
    assert failing_videos(videos, Looked({"cat": found}, {}), [pair(1, "a cat", CAT)], tmp_path) == {description}


def test_a_file_twice_the_same_bytes_twice_and_a_video_in_no_pair_are_found(tmp_path: Path) -> None:
    videos = [Video("cat", "a.mp4", (), {}, 1), Video("dog", "a.mp4", (), {"asr": "x" * 31}, 2)]
    looked = Looked({"cat": info(), "dog": info()}, {"cat": "same", "dog": "same"})
    assert failing_videos(videos, looked, [pair(1, "a cat", CAT)], tmp_path) == {
        "no file is listed under two ids",
        "no two ids have files with the same bytes",
        "every video is the query or target of a pair",
        "a video's text fields are not too long",
    }


def test_a_data_set_without_videos_is_as_expected(tmp_path: Path) -> None:
    assert failing_videos([], Looked({}, {}), [pair(1, "a cat", Side("text", "cats"))], tmp_path) == set()


def test_a_script_in_a_query_stands_in_the_pages_as_text(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    failing_pairs([pair(1, script, CAT), pair(2, script, CAT)], ["train", "test"], tmp_path)
    pages = "".join(page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html"))
    assert "&lt;script&gt;alert(1)" in pages
    assert script not in pages
