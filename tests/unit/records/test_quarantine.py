from reelnest.records.formats import BadRecord, Pair, Side, Video
from reelnest.records.quarantine import count_by_reason, quarantine_pairs, quarantine_videos, queries_without_target

CAT, DOG = Side("video", "cat"), Side("video", "dog")


def pair(line: int, query: str, target: Side, split: str | None = None, negatives: tuple[Side, ...] = ()) -> Pair:
    return Pair(Side("text", query), target, 1.0, split, negatives, line)


def quarantined(pairs: list[Pair], bad_videos: dict[str, str] | None = None) -> tuple[list[int], dict[int, str]]:
    """The lines of usable pairs, and the reasons of bad lines."""
    usable, bad = quarantine_pairs(pairs, bad_videos or {}, 20, 0.0, 0.0)
    return [pair.line for pair in usable], {record.line: record.reason for record in bad}


def test_good_pairs_remain_in_their_order() -> None:
    assert quarantined([pair(1, "b", CAT), pair(2, "a", CAT), pair(3, "a", DOG)]) == ([1, 2, 3], {})


def test_a_pair_that_names_a_quarantined_video_is_bad_with_its_reason() -> None:
    pairs = [pair(1, "a", CAT), pair(2, "b", DOG), pair(3, "c", CAT, negatives=(DOG,)), Pair(DOG, CAT, 1.0, None, (), 4)]
    usable, bad = quarantine_pairs(pairs, {"dog": "truncated"}, 20, 0.0, 0.0)
    assert [pair.line for pair in usable] == [1]
    assert [(record.line, record.reason) for record in bad] == [(2, "bad_video"), (3, "bad_video"), (4, "bad_video")]
    assert all("truncated" in record.detail for record in bad)
    assert "negatives[0]" in bad[1].detail


def test_a_text_may_equal_the_id_of_a_bad_video() -> None:
    assert quarantined([pair(1, "dog", CAT)], {"dog": "truncated"}) == ([1], {})


def test_a_text_one_character_too_long_is_bad_as_query_target_or_negative() -> None:
    fits, long = "x" * 20, "x" * 21
    pairs = [
        pair(1, fits, CAT),
        pair(2, long, CAT),
        pair(3, "a", Side("text", long)),
        pair(4, "b", CAT, negatives=(Side("text", long),)),
    ]
    assert quarantined(pairs) == ([1], {2: "text_too_long", 3: "text_too_long", 4: "text_too_long"})


def test_a_video_with_a_text_one_character_too_long_is_bad() -> None:
    videos = [Video("cat", "cat.mp4", (), {"title": "x" * 20}, 1), Video("dog", "dog.mp4", (), {"title": "a", "asr": "x" * 21}, 2)]
    good, bad = quarantine_videos(videos, 20)
    assert good == videos[:1]
    assert [(record.line, record.reason, record.video_id) for record in bad] == [(2, "text_too_long", "dog")]
    assert "asr has 21 characters; at most 20" in bad[0].detail


def test_of_exact_duplicates_the_first_is_used() -> None:
    assert quarantined([pair(1, "a", CAT), pair(2, "a", DOG), pair(3, "a", CAT), pair(4, "a", CAT)]) == (
        [1, 2],
        {3: "duplicate_pair", 4: "duplicate_pair"},
    )


def test_a_pair_and_its_reverse_are_not_duplicates() -> None:
    assert quarantined([pair(1, "a", CAT), Pair(CAT, Side("text", "a"), 1.0, None, (), 2)]) == ([1, 2], {})


def test_of_one_pair_in_several_splits_test_wins_and_then_validation() -> None:
    pairs = [
        pair(1, "a", CAT, "train"),
        pair(2, "a", CAT, "validation"),
        pair(3, "a", CAT, "test"),
        pair(4, "a", CAT, "test"),
        pair(5, "b", CAT, "train"),
        pair(6, "b", CAT, "validation"),
    ]
    assert quarantined(pairs) == ([3, 6], {1: "leakage", 2: "leakage", 4: "duplicate_pair", 5: "leakage"})


def test_a_duplicate_of_a_bad_pair_is_used() -> None:
    assert quarantined([pair(1, "a", CAT, negatives=(DOG,)), pair(2, "a", CAT)], {"dog": "empty"}) == ([2], {1: "bad_video"})


def test_a_query_without_usable_pairs_is_lost() -> None:
    pairs = [pair(1, "a", CAT), pair(2, "a", DOG), pair(3, "b", DOG), pair(4, "c", DOG)]
    assert queries_without_target(pairs, pairs[:1]) == [Side("text", "b"), Side("text", "c")]
    assert queries_without_target(pairs, pairs) == []


def test_reasons_are_counted_by_file() -> None:
    bad = [BadRecord("videos.jsonl", 1, "empty", ""), BadRecord("videos.jsonl", 2, "empty", ""), BadRecord("pairs.jsonl", 1, "empty", "")]
    assert count_by_reason(bad) == {"videos.jsonl": {"empty": 2}, "pairs.jsonl": {"empty": 1}}
