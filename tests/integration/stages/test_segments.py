"""Segments from the records to the prepared frames."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from reelnest.errors import DataError, VideoError
from reelnest.records.segments import Segment
from reelnest.records.splits import STRICTEST_FIRST
from reelnest.settings import Params, Preprocess, Validate
from reelnest.stages import preprocess, validate
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared
from reelnest.video.decoder import Decoder
from reelnest.video.patches import from_patches
from tests.integration.stages.validated_data import make_video, quarantine, report, write_lines

PARAMS = Params(
    preprocess=Preprocess(frames=6, min_pixels=3136, max_pixels=4096), validation=Validate(max_quarantined_fraction=0.5)
)  # frames of 64 x 64 become 56 x 56


def pair(query: str, **target: Any) -> dict[str, Any]:
    return {"query": {"text": query}, "target": target}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Each file has 48 frames in 2 s. Long videos are pairs' targets as a whole and in parts."""
    data = tmp_path / "data"
    videos: list[dict[str, Any]] = [{"video_id": f"v{number}", "path": f"{number}.mp4", "title": f"Title {number}"} for number in range(12)]
    videos.append({"video_id": "late", "path": "0.mp4", "start": 1})
    for number in range(12):
        make_video(data / f"{number}.mp4", frames=48, seed=number)
    write_lines(data / "videos.jsonl", *videos)
    pairs = [pair(f"whole {number}", video=f"v{number}") for number in range(12)]
    pairs += [pair(f"second half {number}", video=f"v{number}", start=1, end=2) for number in range(12)]
    pairs += [pair("late", video="late"), pair("after the end", video="v3", start=1, end=9), pair("later", video="v3", start=3)]
    write_lines(data / "pairs.jsonl", *pairs)
    return Workspace(tmp_path)


def frames_of(prepared: Prepared, video_id: str) -> np.ndarray:
    frames = prepared.entry(prepared.video_item(video_id), "target").frames
    assert frames is not None
    return from_patches(frames.rows, frames.grid_thw, frames.vision)


def test_a_segment_s_frames_are_stored_and_its_texts_are_its_video_s(workspace: Workspace) -> None:
    files = {file.name for file in workspace.data.iterdir()}
    validate.run(workspace, PARAMS)
    preprocess.run(workspace, PARAMS)
    prepared = Prepared.open(workspace.prepared)
    assert list(prepared.store.video_ids) == sorted([*(f"v{n}" for n in range(12)), *(f"v{n}#t=1,2" for n in range(12)), "late"])
    with av.open(str(workspace.data / "5.mp4")) as container:
        shown = [frame.to_image() for frame in container.decode(video=0) if 1 <= float(frame.pts * frame.time_base) < 2]
    assert len(shown) == 24
    expected = np.stack([np.asarray(shown[at].resize((56, 56), 3)) for at in np.rint(np.linspace(0, 23, 6)).astype(int)])
    np.testing.assert_array_equal(frames_of(prepared, "v5#t=1,2"), expected)
    item = prepared.item(prepared.video_item("v5#t=1,2"))
    assert item.fields == (("title", "Title 5"),)
    assert prepared.seconds(item.index) == pytest.approx(1.0)
    assert {file.name for file in workspace.data.iterdir()} == files


def test_equal_segments_have_one_key_and_nothing_is_decoded_twice(workspace: Workspace) -> None:
    validate.run(workspace, PARAMS)
    preprocess.run(workspace, PARAMS)
    prepared = Prepared.open(workspace.prepared)
    stored = {file.name: file.read_bytes() for file in (workspace.prepared / "store").iterdir()}
    np.testing.assert_array_equal(frames_of(prepared, "late"), frames_of(prepared, "v0#t=1,2"))
    preprocess.run(workspace, PARAMS)
    assert json.loads((workspace.work / "preprocessing.json").read_text())["decoded"] == 0
    assert {file.name: file.read_bytes() for file in (workspace.prepared / "store").iterdir()} == stored


def test_a_segment_after_the_end_excludes_its_pair_alone(workspace: Workspace) -> None:
    write_lines(
        workspace.data / "videos.jsonl",
        *(workspace.data / "videos.jsonl").read_text().splitlines(),
        json.dumps({"video_id": "too late", "path": "1.mp4", "start": 1.5, "end": 60}),
    )
    validate.run(workspace, PARAMS)
    bad = {(record["file"], record["line"]): (record["reason"], record["detail"]) for record in quarantine(workspace)}
    lasts = "but the video lasts 2.000 s; correct"
    assert bad == {
        ("videos.jsonl", 14): ("bad_segment", f"1.mp4: the segment ends at 60 s, {lasts} end, or remove it"),
        ("pairs.jsonl", 26): ("bad_segment", f"target: 3.mp4: the segment ends at 9 s, {lasts} end, or remove it"),
        ("pairs.jsonl", 27): ("bad_segment", f"target: 3.mp4: the segment begins at 3 s, {lasts} start"),
    }
    preprocess.run(workspace, PARAMS)
    assert "v3" in Prepared.open(workspace.prepared).store.video_ids


def test_the_pairs_of_a_file_are_in_one_split_and_its_segments_are_no_duplicates(workspace: Workspace) -> None:
    validate.run(workspace, PARAMS)
    preprocess.run(workspace, PARAMS)
    prepared = Prepared.open(workspace.prepared)
    of_file: dict[str, set[str]] = {}
    for split in STRICTEST_FIRST:
        for target in prepared.pairs(split).targets:
            name = prepared.item(int(target)).key
            of_file.setdefault("v0" if name == "late" else name.partition("#")[0], set()).add(split)
    assert len(of_file) == 12
    assert all(len(splits) == 1 for splits in of_file.values())
    failed = {found["description"] for found in report(workspace)["expectations"] if not found["success"]}
    assert not failed & {
        "no file is listed under two ids",
        "no two ids have files with the same bytes",
        "every video is the query or target of a pair",
        "pairs that a chain of queries and targets joins are in one split",
    }


def test_the_pairs_of_a_file_that_cannot_be_decoded_are_excluded(workspace: Workspace) -> None:
    (workspace.data / "7.mp4").write_bytes(b"no video, but words")
    validate.run(workspace, PARAMS)
    bad = {record["line"]: record["reason"] for record in quarantine(workspace) if record["file"] == "pairs.jsonl"}
    assert {line: bad[line] for line in (8, 20)} == {8: "bad_video", 20: "bad_video"}


def test_if_the_decoder_hangs_on_a_segment_all_segments_of_the_file_are_bad(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(self: Decoder, files: list[Path], settings: Any, segment: Segment | None = None) -> Any:
        if files[0].name == "0.mp4" and segment == Segment(1.0, 2.0):
            raise VideoError("timeout", "0.mp4: not decoded within 60 s")
        return original(self, files, settings, segment)

    original = Decoder.inspect_and_sample
    monkeypatch.setattr(Decoder, "inspect_and_sample", inspect)
    validate.run(workspace, PARAMS)
    bad = {(record["file"], record["line"]): record["reason"] for record in quarantine(workspace)}
    assert bad["videos.jsonl", 13] == "timeout"  # `late`
    assert ("videos.jsonl", 1) not in bad
    assert bad["pairs.jsonl", 13] == "bad_segment"


def test_a_known_segment_obeys_changed_limits_of_its_file(workspace: Workspace) -> None:
    validate.run(workspace, PARAMS)
    for limits in ({"max_video_seconds": 1.5}, {"max_video_frames": 40}):
        with pytest.raises(DataError, match="are bad"):
            validate.run(workspace, Params(preprocess=PARAMS.preprocess, validation=Validate(**limits)))
        assert report(workspace)["videos"]["good"] == 0
