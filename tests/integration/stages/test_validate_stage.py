import json
import logging
import shutil
from pathlib import Path

import pytest

from reelnest.errors import DataError
from reelnest.records.behaviour_tests import stored_behaviour
from reelnest.records.formats import read_quarantine
from reelnest.settings import Data, Params
from reelnest.stages import preprocess, validate
from reelnest.stages.workspace import Workspace
from reelnest.video.decoder import Decoder
from tests.integration.stages.validated_data import allowing, failed, make_video, quarantine, report, write_lines


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
    assert "All 57 checks passed." in (workspace.reports / "data_docs" / "index.html").read_text(encoding="utf-8")
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
        ("pairs_advice", "no text of the validation or test split almost repeats one of the train split"),
        ("videos_advice", "no two videos look almost the same"),  # such as detective.mp4 and man-detective.mp4
    }


def outputs(workspace: Workspace) -> dict[str, bytes]:
    """What the two stages wrote, by path."""
    files = [file for folder in (workspace.reports, workspace.prepared) for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(workspace.root)): file.read_bytes() for file in files}


def run_both(workspace: Workspace, params: Params) -> dict[str, bytes]:
    validate.run(workspace, params)
    preprocess.run(workspace, params)
    return outputs(workspace)


def test_preprocessing_decodes_no_video_that_validation_has_decoded(workspace: Workspace) -> None:
    together = run_both(workspace, Params())
    assert json.loads((workspace.work / "preprocessing.json").read_text())["decoded"] == 0
    shutil.rmtree(workspace.work)
    preprocess.run(workspace, Params())
    assert json.loads((workspace.work / "preprocessing.json").read_text())["decoded"] == 2
    assert outputs(workspace) == together


def test_known_videos_are_not_decoded_and_results_are_the_same(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_both(workspace, Params())
    with monkeypatch.context() as patch:
        patch.delattr(Decoder, "_request")
        assert run_both(workspace, Params()) == first
    shutil.copy(workspace.data / "videos" / "cat.mp4", workspace.data / "videos" / "dog.mp4")
    changed = run_both(workspace, Params())
    shutil.rmtree(workspace.work)
    assert run_both(workspace, Params()) == changed != first


def test_known_videos_obey_changed_limits(workspace: Workspace) -> None:
    validate.run(workspace, Params())
    for strict, reason in ((allowing(1, max_video_frames=30), "too_many_frames"), (allowing(1, max_video_seconds=2.0), "too_long")):
        validate.run(workspace, strict)
        assert reason in [record["reason"] for record in quarantine(workspace)]


def test_frames_that_cannot_be_cached_fail_nothing(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    workspace.frames.mkdir(parents=True)
    (workspace.frames / "spill").write_text("not a folder")
    validate.run(workspace, Params())
    assert report(workspace)["passed"] is True
    assert caplog.text.count("are not cached") == 1
