import json
import logging
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from reelnest.errors import DataError
from reelnest.records.behaviour_tests import stored_behaviour
from reelnest.records.formats import known_ids, read_pairs, read_quarantine, read_videos
from reelnest.settings import Data, Params, Validate
from reelnest.stages import validate
from reelnest.stages.workspace import Workspace


def make_video(path: Path, frames: int = 24, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"threads": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            picture = chance.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_lines(path: Path, *records: dict[str, Any] | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records), encoding="utf-8")


def report(workspace: Workspace) -> Any:
    return json.loads((workspace.reports / "validation.json").read_text(encoding="utf-8"))


def quarantine(workspace: Workspace) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workspace.reports / "quarantine.jsonl").read_text(encoding="utf-8").split("\n") if line]


def allowing(fraction: float, **settings: Any) -> Params:
    return Params(validation=Validate(max_quarantined_fraction=fraction, **settings))


def failed(workspace: Workspace) -> set[tuple[str, str]]:
    return {(found["suite"], found["description"]) for found in report(workspace)["expectations"] if not found["success"]}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=60)


@pytest.fixture
def workspace(tmp_path: Path, clip: Path) -> Workspace:
    """Two good videos and four good pairs."""
    found = Workspace(tmp_path)
    make_video(found.data / "videos" / "cat.mp4")
    (found.data / "videos" / "dog.mp4").write_bytes(clip.read_bytes())
    write_lines(
        found.data / "videos.jsonl",
        {"video_id": "cat", "path": "videos/cat.mp4", "title": "Cat"},
        {"video_id": "dog", "path": "videos/dog.mp4"},
    )
    write_lines(
        found.data / "pairs.jsonl",
        {"query": "a cat", "target": "cat", "split": "train"},
        {"query": "cat", "target": {"text": "a cat"}, "split": "train"},
        {"query": "a dog", "target": "dog", "split": "test"},
        {"query": "a hound", "target": {"text": "a dog that hunts"}, "split": "test"},
    )
    return found


def test_good_data_passes_and_its_report_counts_it(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="reelnest"):
        validate.run(workspace, Params())
    found = report(workspace)
    assert found["passed"] is True
    assert found["videos"]["lines"] == found["videos"]["good"] == 2
    assert found["videos"]["frames"] == 24 + 60
    assert found["videos"]["seconds"] == pytest.approx(1 + 2.5, abs=0.1)
    assert found["videos"]["by_decoder"] == {"decord": 2}
    assert found["pairs"]["by_split_and_kind"] == {
        "train": {"text_to_video": 1, "video_to_text": 1, "all": 2},
        "test": {"text_to_video": 1, "text_to_text": 1, "all": 2},
        "all": {"text_to_video": 2, "video_to_text": 1, "text_to_text": 1, "all": 4},
    }
    assert found["quarantined"] == {"records": 0, "fraction": 0.0, "allowed_fraction": 0.05, "by_reason": {}}
    assert found["queries_without_target"] == {"count": 0, "pairs_by_reason": {}, "queries": []}
    assert all(outcome["success"] for outcome in found["expectations"])
    assert read_quarantine(workspace.reports / "quarantine.jsonl") == set()
    assert [page.name for page in (workspace.reports / "data_docs").iterdir()] == ["index.html"]
    assert "All 46 checks passed." in (workspace.reports / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert "inspected 2 videos" in caplog.text
    assert {path.name for path in workspace.reports.iterdir()} == {"validation.json", "quarantine.jsonl", "behaviour.jsonl", "data_docs"}
    # Optional, and said to be absent.
    assert found["behaviour"]["lines"] == 0
    assert "no behaviour tests" in caplog.text


def test_two_runs_write_the_same_report_and_quarantine(workspace: Workspace) -> None:
    with (workspace.data / "pairs.jsonl").open("a") as file:
        file.write('{"query": "a c\n')
    before = []
    for _ in range(2):
        validate.run(workspace, allowing(0.5))
        before.append([(workspace.reports / name).read_bytes() for name in ("validation.json", "quarantine.jsonl")])
    assert before[0] == before[1]
    assert str(workspace.root) not in before[0][0].decode() + before[0][1].decode()


def test_behaviour_tests_are_checked_and_those_on_what_training_reads_are_counted(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    write_lines(
        workspace.data / "behaviour.jsonl",
        {"kind": "minimum", "query": "one dog", "video": "dog"},
        {"kind": "minimum", "query": "one cat", "video": "cat"},
        {"kind": "direction", "query": "a dog", "video": "dog", "above": "bird"},
    )
    validate.run(workspace, allowing(0.5))
    assert report(workspace)["behaviour"] == {
        "lines": 3,
        "good": 2,
        "by_kind": {"invariance": 0, "direction": 0, "minimum": 2},
        "of_training": 1,
        "of_other_data": 0,
    }
    assert [test.line for test in stored_behaviour(workspace.reports / "behaviour.jsonl")] == [1, 2]
    ((file, line, reason),) = [(found["file"], found["line"], found["reason"]) for found in quarantine(workspace)]
    assert (file, line, reason) == ("behaviour.jsonl", 3, "unknown_video")
    assert "1 behaviour tests use texts or videos of the train split" in caplog.text
    with pytest.raises(DataError, match=r"behaviour\.jsonl: 1 unknown_video"):
        validate.run(workspace, allowing(0.05))


def test_behaviour_tests_of_other_data_are_not_used_and_are_no_bad_records(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    foreign = [{"kind": "minimum", "query": f"clip {number}", "video": f"clip-{number}"} for number in range(50)]
    write_lines(workspace.data / "behaviour.jsonl", {"kind": "invariance", "query": "a ring", "same_as": "a hoop"}, *foreign)
    validate.run(workspace, allowing(0.05))
    assert report(workspace)["behaviour"]["of_other_data"] == 51
    assert stored_behaviour(workspace.reports / "behaviour.jsonl") == []
    assert quarantine(workspace) == []
    assert "behaviour.jsonl is not used: most of its 51 tests name videos that are not in data/videos.jsonl" in caplog.text


BROKEN = {
    "a missing file": {"missing"},
    "an empty file": {"empty"},
    "a text file": {"not_a_video"},
    "a truncated file": {"truncated"},
    "random bytes": {"not_a_video"},
    "a video of no frames": {"no_frames", "not_a_video"},
    "a video of too many frames": {"too_many_frames"},
    "a folder": {"not_a_file"},
    "a link out of data": {"unsafe_path"},
}
"""Kinds of broken video, and the reasons that may be given."""


def make_broken(kind: str, path: Path, clip: Path) -> None:
    whole = clip.read_bytes()
    contents = {
        "an empty file": b"",
        "a text file": b"not a video, but a text\n" * 100,
        "a truncated file": whole[: len(whole) * 2 // 3],
        "random bytes": np.random.default_rng(0).bytes(5000),
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "a video of no frames":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            container.start_encoding()
    elif kind == "a video of too many frames":
        make_video(path, frames=130)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a link out of data":
        path.symlink_to(clip)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Workspace:
    """Validated: one good video, one of each broken kind, each with one pair that names it."""
    found = Workspace(tmp_path_factory.mktemp("broken"))
    make_video(found.data / "good.mp4")
    Image.new("RGB", (64, 64), "red").save(found.data / "1.png")
    Image.new("RGB", (64, 64), "blue").save(found.data / "2.png")
    videos: list[dict[str, Any]] = [{"video_id": "good", "path": "good.mp4"}, {"video_id": "frames", "images": ["1.png", "2.png"]}]
    pairs: list[dict[str, Any]] = [
        {"query": "good", "target": {"text": "noise"}, "split": "train"},
        {"query": "frames", "target": {"text": "two colours"}, "split": "test"},
    ]
    for name in BROKEN:
        make_broken(name, found.data / f"{name}.mp4", clip)
        videos.append({"video_id": name, "path": f"{name}.mp4"})
        pairs.append({"query": f"find {name}", "target": name})
    videos.append({"video_id": "a frame that is no picture", "images": ["1.png", "a text file.mp4"]})
    write_lines(found.data / "videos.jsonl", *videos)
    write_lines(found.data / "pairs.jsonl", *pairs)
    validate.run(found, allowing(1.0, max_video_frames=120))
    return found


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_video_is_quarantined_with_its_reason_and_with_the_pair_that_names_it(broken: Workspace, name: str) -> None:
    line = 3 + list(BROKEN).index(name)
    records = {(record["file"], record["line"]): record for record in quarantine(broken)}
    video, pair = records["videos.jsonl", line], records["pairs.jsonl", line]
    assert video["reason"] in BROKEN[name]
    assert video["video_id"] == name
    assert str(broken.root) not in video["detail"]
    assert pair["reason"] == "bad_video"
    assert video["reason"] in pair["detail"]


def test_good_videos_beside_broken_ones_are_kept(broken: Workspace) -> None:
    found = report(broken)
    assert (found["videos"]["good"], found["pairs"]["good"]) == (2, 2)
    assert ("videos.jsonl", 1) not in read_quarantine(broken.reports / "quarantine.jsonl")
    assert found["quarantined"]["records"] == 2 * len(BROKEN) + 1
    assert {suite for suite, _ in failed(broken)} == {"videos_found", "pairs_found"}
    assert ("videos_found", "every line is well-formed and its video can be decoded") in failed(broken)


def test_a_frame_that_is_no_picture_makes_its_video_bad(broken: Workspace) -> None:
    assert [record["reason"] for record in quarantine(broken) if record.get("video_id") == "a frame that is no picture"] == ["not_a_video"]


def test_queries_that_the_quarantine_left_without_a_target_are_named_and_counted(broken: Workspace) -> None:
    lost = report(broken)["queries_without_target"]
    assert lost["count"] == len(BROKEN)
    assert lost["queries"] == sorted(f"text: find {name}" for name in BROKEN)
    assert lost["pairs_by_reason"] == {"bad_video": len(BROKEN)}


def test_later_stages_read_what_is_left_from_the_quarantine(broken: Workspace) -> None:
    dropped = read_quarantine(broken.reports / "quarantine.jsonl")
    videos, bad = read_videos(broken.data)
    pairs, _ = read_pairs(broken.data, known_ids(videos, bad))
    assert [video.video_id for video in videos if ("videos.jsonl", video.line) not in dropped] == ["good", "frames"]
    assert [pair.line for pair in pairs if ("pairs.jsonl", pair.line) not in dropped] == [1, 2]


def test_too_many_bad_records_stop_the_stage_after_its_files_are_written_whole(workspace: Workspace) -> None:
    (workspace.data / "videos" / "dog.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 records \(33\.3%\) are bad") as caught:
        validate.run(workspace, allowing(0.3))
    assert "videos.jsonl: 1 empty; pairs.jsonl: 1 bad_video" in str(caught.value)
    assert "quarantine.jsonl" in str(caught.value)
    assert report(workspace)["passed"] is False
    assert read_quarantine(workspace.reports / "quarantine.jsonl") == {("videos.jsonl", 2), ("pairs.jsonl", 3)}
    assert (workspace.reports / "data_docs" / "index.html").is_file()
    validate.run(workspace, allowing(0.34))
    assert report(workspace)["passed"] is True


def test_a_decoder_that_takes_too_long_makes_the_video_bad(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="2 timeout"):
        validate.run(workspace, allowing(0.1, decode_timeout_seconds=1e-6))


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_stops_the_stage_and_says_what_can_be_done(workspace: Workspace, split: str) -> None:
    other = {"train": "test", "test": "train"}[split]
    write_lines(workspace.data / "pairs.jsonl", *({"query": f"a {name}", "target": name, "split": other} for name in ("cat", "dog")))
    with pytest.raises(DataError, match=f"the {split} split has no pairs: 2 good pairs form 2 groups.*test_fraction"):
        validate.run(workspace, Params())
    assert report(workspace)["passed"] is False


def test_a_test_split_that_the_quarantine_empties_names_the_reasons(workspace: Workspace) -> None:
    write_lines(
        workspace.data / "pairs.jsonl",
        {"query": "a", "target": "cat", "split": "train"},
        {"query": "b", "target": {"video": "gone"}, "split": "test"},
    )
    with pytest.raises(DataError, match=r"the test split has no pairs.*1 unknown_video"):
        validate.run(workspace, allowing(0.5))


def test_no_pairs_at_all_stop_the_stage(workspace: Workspace) -> None:
    write_lines(workspace.data / "pairs.jsonl")
    with pytest.raises(DataError, match="the train split has no pairs"):
        validate.run(workspace, Params())


def test_leaking_and_repeated_pairs_and_long_texts_are_quarantined_by_reason(workspace: Workspace) -> None:
    write_lines(
        workspace.data / "pairs.jsonl",
        {"query": "a cat", "target": "cat", "split": "train"},
        {"query": "a cat", "target": "cat", "split": "test"},
        {"query": "a dog", "target": "dog", "split": "train"},
        {"query": "a dog", "target": "dog", "split": "train"},
        {"query": "x" * 101, "target": "dog", "split": "train"},
    )
    validate.run(workspace, allowing(0.9, max_text_characters=100))
    assert report(workspace)["quarantined"]["by_reason"] == {"pairs.jsonl": {"duplicate_pair": 1, "leakage": 1, "text_too_long": 1}}
    assert report(workspace)["pairs"]["by_split_and_kind"]["all"]["all"] == 2
    assert ("pairs_found", "no query and target are in two splits") in failed(workspace)
    assert ("pairs_used", "no query and target are in two splits") not in failed(workspace)


def test_a_video_that_splits_share_is_a_warning_and_no_failure(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    write_lines(
        workspace.data / "pairs.jsonl",
        {"query": "a cat", "target": "cat", "split": "train"},
        {"query": "a kitten", "target": "cat", "split": "test"},
        {"query": "a dog", "target": "dog", "split": "train"},
    )
    validate.run(workspace, Params())
    assert report(workspace)["passed"] is True
    assert ("pairs_advice", "no target is in two splits") in failed(workspace)
    assert "no target is in two splits" in caplog.text


def test_files_with_the_same_bytes_under_two_names_are_a_warning(workspace: Workspace) -> None:
    shutil.copy(workspace.data / "videos" / "cat.mp4", workspace.data / "videos" / "dog.mp4")
    validate.run(workspace, Params())
    assert ("videos_advice", "no two ids have files with the same bytes") in failed(workspace)


def test_pairs_without_a_split_are_divided_and_counted(workspace: Workspace) -> None:
    write_lines(workspace.data / "pairs.jsonl", *({"query": f"query {n}", "target": {"text": f"answer {n}"}} for n in range(200)))
    validate.run(workspace, Params(data=Data(validation_fraction=0.2, test_fraction=0.2)))
    counts = {split: kinds["all"] for split, kinds in report(workspace)["pairs"]["by_split_and_kind"].items()}
    assert counts["all"] == 200
    assert 20 < counts["validation"] < 60
    assert 20 < counts["test"] < 60


def test_missing_data_stops_the_stage_before_it_writes_anything(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reelnest sample"):
        validate.run(Workspace(tmp_path), Params())
    assert list(tmp_path.iterdir()) == []


def test_the_real_clips_are_all_good_and_their_shared_videos_a_warning(shared_clips: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_clips, tmp_path / "data", copy_function=shutil.copyfile)
    validate.run(Workspace(tmp_path), Params())
    found = report(Workspace(tmp_path))
    assert (found["videos"]["good"], found["pairs"]["good"]) == (363, 3906)
    counts = {split: kinds["all"] for split, kinds in found["pairs"]["by_split_and_kind"].items()}
    assert counts == {"all": 3906, "train": 2865, "test": 1041}
    assert failed(Workspace(tmp_path)) == {
        ("pairs_advice", "no target is in two splits"),
        ("pairs_advice", "pairs that a chain of queries and targets joins are in one split"),
    }
