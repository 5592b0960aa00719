"""The contents of the sample, and when it may be written."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from reelnest.errors import DataError
from reelnest.records.formats import read_pairs, read_videos
from reelnest.sample import clips as sample_clips
from reelnest.sample import sample
from reelnest.sample import words as sample_words
from reelnest.sample.sample import ALONE, Clip, plan, write_sample

SMALL = {"train": 6, "validation": 1, "test": 2}

Planned = tuple[dict[str, Clip], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def planned() -> Planned:
    clips, pairs = plan()
    return {clip.video_id: clip for clip in clips}, pairs


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "data"
    write_sample(folder, twins=SMALL)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def combinations_of(side: dict[str, str], clips: dict[str, Clip]) -> set[sample.Combination]:
    """The combination of a clip, or the combinations that a text names, read independently of the templates."""
    if "video" in side:
        return {clips[side["video"]].combination}

    def named(table: dict[str, Any]) -> list[str]:
        values = []
        for value, words in table.items():
            flat = [form for word in words for form in (word if isinstance(word, tuple) else (word,))]
            if any(re.search(rf"\b{re.escape(form)}\b", side["text"], re.IGNORECASE) for form in flat):
                values.append(value)
        return values

    tables = (sample_words.COLOURS, sample_words.SHAPES, sample_words.BACKGROUNDS, sample_words.MOVEMENTS)
    colours, shapes, backgrounds, movements = (named(table) for table in tables)
    return {
        sample.Combination(colour, shape, background, movement)
        for colour in colours
        for shape in shapes
        for background in backgrounds
        for movement in movements
    }


def test_combinations_of_one_split_are_in_no_other(planned: Planned) -> None:
    seen: dict[str, set[sample.Combination]] = defaultdict(set)
    for clip in planned[0].values():
        seen[clip.split].add(clip.combination)
    assert all(seen[first].isdisjoint(seen[second]) for first, second in combinations(seen, 2))
    assert len(seen["test"]) >= 220


def test_every_value_and_nearly_every_pair_of_values_of_the_test_is_in_training(planned: Planned) -> None:
    def attributes(split: str, size: int) -> set[tuple[tuple[int, str], ...]]:
        split_clips = (clip for clip in planned[0].values() if clip.split == split)
        return {subset for clip in split_clips for subset in combinations(enumerate(clip.combination), size)}

    assert attributes("test", 1) == attributes("train", 1)
    assert len(attributes("test", 2) & attributes("train", 2)) / len(attributes("test", 2)) > 0.95


def test_a_pair_stays_in_one_split_and_shows_the_same_thing_on_both_sides(planned: Planned) -> None:
    clips, pairs = planned
    for pair in pairs:
        query, target = combinations_of(pair["query"], clips), combinations_of(pair["target"], clips)
        assert len(query) == len(target) == 1, pair
        assert query == target, pair
        assert {clips[side["video"]].split for side in (pair["query"], pair["target"]) if "video" in side} <= {pair["split"]}


def test_each_clip_has_several_differently_worded_searches(planned: Planned) -> None:
    searches = defaultdict(set)
    for pair in planned[1]:
        if "text" in pair["query"] and "video" in pair["target"]:
            searches[pair["target"]["video"]].add(pair["query"]["text"])
    assert searches.keys() == planned[0].keys()
    assert all(len(texts) >= 2 for texts in searches.values())


def test_no_text_describes_two_combinations(planned: Planned) -> None:
    clips, pairs = planned
    of_text = defaultdict(set)
    for pair in pairs:
        for side in (pair["query"], pair["target"]):
            if "text" in side:
                of_text[side["text"].lower()] |= combinations_of(side, clips)
    assert all(len(named) == 1 for named in of_text.values())


def test_every_relevant_clip_is_labelled(planned: Planned) -> None:
    clips, pairs = planned
    labelled = {(json.dumps(pair["query"]), json.dumps(pair["target"])) for pair in pairs}
    for pair in pairs:
        if "text" in pair["query"] and "video" in pair["target"]:
            (meant,) = combinations_of(pair["query"], clips)
            for clip in clips.values():
                if clip.combination == meant:
                    assert (json.dumps(pair["query"]), json.dumps({"video": clip.video_id})) in labelled


def test_all_four_kinds_of_pairs_are_in_every_split_and_some_queries_have_several_relevant_targets(planned: Planned) -> None:
    kinds = defaultdict(set)
    relevant = defaultdict(set)
    for pair in planned[1]:
        kinds[pair["split"]].add((*pair["query"], *pair["target"]))
        relevant[json.dumps(pair["query"])].add(json.dumps(pair["target"]))
    four = {("text", "video"), ("video", "text"), ("text", "text"), ("video", "video")}
    assert kinds == {"train": four, "validation": four, "test": four}
    assert {len(targets) for targets in relevant.values()} >= {1, 2}
    assert max(len(targets) for targets in relevant.values()) <= 10


def test_the_negatives_of_a_search_are_the_same_thing_moving_the_opposite_way(planned: Planned) -> None:
    clips, pairs = planned
    for pair in pairs:
        if "text" in pair["query"] and "video" in pair["target"]:
            right = clips[pair["target"]["video"]]
            filmed = {clip.combination for clip in clips.values()}
            assert bool(pair.get("negatives")) == (right.combination.twin in filmed)
            for negative in pair.get("negatives", []):
                wrong = clips[negative["video"]]
                assert wrong.split == right.split
                assert wrong.combination[:3] == right.combination[:3]
                assert wrong.combination.movement == sample_clips.OPPOSITES[right.combination.movement]


def test_outside_training_no_field_describes_the_clip(planned: Planned) -> None:
    words: set[str] = set()
    for table in (sample_words.COLOURS, sample_words.SHAPES, sample_words.BACKGROUNDS, sample_words.MOVEMENTS):
        for forms in table.values():
            for form in forms:
                words |= {word for text in (form if isinstance(form, tuple) else (form,)) for word in text.split()}
    words -= {"a", "to", "the", "from"}
    fields = {
        split: [text for clip in planned[0].values() if clip.split == split for text in clip.fields.values()] for split in ("train", "test")
    }
    assert fields["train"]
    assert fields["test"]
    assert not {word for text in fields["test"] for word in re.findall(r"[a-z-]+", text.lower())} & words


def test_titles_in_training_name_no_background_and_no_movement(planned: Planned) -> None:
    titles = [(clip.fields["title"].lower(), clip.combination) for clip in planned[0].values() if "title" in clip.fields]
    assert titles
    for title, combination in titles:
        assert any(word in title for word in sample_words.COLOURS[combination.colour])
        assert not any(word in title for words in sample_words.BACKGROUNDS.values() for word in words)


def test_the_files_are_read_without_a_bad_record(small: Path) -> None:
    videos, bad_videos = read_videos(small)
    pairs, bad_pairs = read_pairs(small, {video.video_id for video in videos})
    assert bad_videos == bad_pairs == []
    assert len(videos) == len(list((small / "videos").iterdir())) >= 18
    assert {pair.split for pair in pairs} == {"train", "validation", "test"}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(small: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", twins=SMALL)
    write_sample(tmp_path / "other", seed=1, twins=SMALL)
    assert contents(tmp_path / "again") == contents(small)
    assert contents(tmp_path / "other") != contents(small)


def test_the_same_sample_is_not_rewritten_and_another_unmodified_one_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert write_sample(folder, twins=SMALL).was_written
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = write_sample(folder, twins=SMALL)
    assert not again.was_written
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert write_sample(folder, seed=1, twins=SMALL).was_written
    assert json.loads((folder / "sample.json").read_text(encoding="utf-8"))["seed"] == 1


def test_the_counts_are_those_of_the_files(tmp_path: Path) -> None:
    counts = write_sample(tmp_path / "data", twins=SMALL)
    lines = [json.loads(line) for line in (tmp_path / "data" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(sum(kinds.values()) for kinds in counts.pairs.values()) == len(lines)
    assert sum(counts.clips.values()) == len(list((tmp_path / "data" / "videos").iterdir()))
    kinds = Counter((pair["split"], f"{next(iter(pair['query']))}_to_{next(iter(pair['target']))}") for pair in lines)
    assert kinds == {(split, kind): number for split, numbers in counts.pairs.items() for kind, number in numbers.items()}
    assert f"test: {counts.clips['test']} clips" in str(counts)
    assert counts.clips["test"] >= SMALL["test"] * (2 + ALONE["test"])


@pytest.mark.parametrize("change", ["a video of one's own", "a pair of one's own", "a missing clip", "no manifest"])
def test_a_folder_with_other_contents_is_refused_and_unchanged(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "data"
    write_sample(folder, twins=SMALL)
    if change == "a video of one's own":
        (folder / "videos" / "mine.mp4").write_bytes(b"mine")
    elif change == "a pair of one's own":
        with (folder / "pairs.jsonl").open("a", encoding="utf-8") as file:
            file.write("{}\n")
    elif change == "a missing clip":
        (folder / "videos" / "clip-0001.mp4").unlink()
    else:
        (folder / "sample.json").unlink()
    before = contents(folder)
    with pytest.raises(DataError, match="nothing was changed"):
        write_sample(folder, seed=1, twins=SMALL)
    with pytest.raises(DataError, match="nothing was changed"):
        write_sample(folder, twins=SMALL)
    assert contents(folder) == before


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("notes", encoding="utf-8")
    with pytest.raises(DataError, match="nothing was changed"):
        write_sample(tmp_path / "data", twins=SMALL)


def test_an_interrupted_sample_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(frames: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_clips, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "data", twins=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_more_twins_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twin pairs"):
        write_sample(tmp_path / "data", twins={"train": 10_000})
    assert not (tmp_path / "data").exists()


def test_behaviour_tests_use_combinations_that_training_lacks_and_are_correct(planned: Planned) -> None:
    clips, pairs = planned
    trained = {side["text"] for pair in pairs if pair["split"] == "train" for side in (pair["query"], pair["target"]) if "text" in side}
    tests = sample.behaviour_tests(clips.values())
    assert Counter(test["kind"] for test in tests) == {"invariance": 60, "minimum": 60, "direction": 90}
    for test in tests:
        (meant,) = combinations_of({"text": test["query"]}, clips)
        assert test["query"] not in trained
        if test["kind"] == "invariance":
            assert combinations_of({"text": test["same_as"]}, clips) == {meant}
            assert test["same_as"] not in trained | {test["query"]}
        else:
            assert {clips[video].combination for video in test["video"]} == {meant}
            assert {clips[video].combination for video in test.get("above", [])} <= {meant.twin}
            assert {clips[video].split for video in (*test["video"], *test.get("above", []))} == {"test"}
