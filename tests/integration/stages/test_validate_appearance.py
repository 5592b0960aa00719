"""Videos that can be decoded but show little, or the same as another one: warnings, with pictures on the page."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reelnest.settings import Params, Validate
from reelnest.stages import preprocess, validate
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared
from tests.integration.stages.validated_data import failed, make_video, report, write_lines

BLACK, ONE_COLOUR, FROZEN = "a video is not black", "a video has more than one colour", "a video is not frozen"
TWICE, SPLIT = "no two videos look almost the same", "videos that look almost the same are in one split"


def noise(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(60, 200, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Seven videos as lists of images, and a pair for each."""
    made = Workspace(tmp_path)
    videos = {
        "good": [noise(1), noise(2)],
        "other": [noise(3), noise(4)],
        "copy": [Image.blend(noise(n), noise(7), 0.04).resize((64, 80)) for n in (1, 2)],
        "black": [Image.new("RGB", (64, 64), (grey,) * 3) for grey in (3, 9)],
        "blue": [Image.new("RGB", (64, 64), (0, 0, blue)) for blue in (90, 200)],
        "frozen": [noise(5), noise(5)],
        "still": [noise(6)],
    }
    records = []
    for name, frames in videos.items():
        files = [f"images/{name}-{number}.png" for number in range(len(frames))]
        (made.data / "images").mkdir(parents=True, exist_ok=True)
        for file, frame in zip(files, frames, strict=True):
            frame.save(made.data / file)
        records.append({"video_id": name, "images": files})
    write_lines(made.data / "videos.jsonl", *records)
    splits = {"copy": "test", "other": "test"}
    pairs = ({"query": f"a search for {name}", "target": {"video": name}, "split": splits.get(name, "train")} for name in videos)
    write_lines(made.data / "pairs.jsonl", *pairs)
    return made


def flagged(workspace: Workspace) -> dict[str, tuple[int, ...]]:
    """The lines by the description of the advice that they do not meet."""
    outcomes = [outcome for outcome in report(workspace)["expectations"] if not outcome["success"]]
    assert {outcome["severity"] for outcome in outcomes} <= {"warning"}
    return {outcome["description"]: tuple(outcome["lines"]) for outcome in outcomes}


def test_videos_that_show_little_or_the_same_are_warnings_with_pictures(workspace: Workspace) -> None:
    validate.run(workspace, Params())
    found = report(workspace)
    assert found["passed"]
    lines = flagged(workspace)
    assert {name: lines[name] for name in (BLACK, ONE_COLOUR, FROZEN, TWICE, SPLIT)} == {
        BLACK: (4,),
        ONE_COLOUR: (4, 5),
        FROZEN: (6,),
        TWICE: (1, 3),
        SPLIT: (1, 3),
    }
    page = (workspace.reports / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/jpeg;base64,') == 8
    assert 'alt="2 frames of black"' in page
    assert "looks like good" in page


def test_what_is_flagged_depends_on_the_settings(workspace: Workspace) -> None:
    limits = Validate(min_brightness=0, min_contrast=0, min_change=0, max_near_duplicate_bits=0)
    validate.run(workspace, Params(validation=limits))
    assert not flagged(workspace).keys() & {BLACK, ONE_COLOUR, FROZEN, SPLIT}
    validate.run(workspace, Params(validation=Validate(min_brightness=255, min_contrast=255, min_change=255)))
    assert [len(flagged(workspace)[name]) for name in (BLACK, ONE_COLOUR, FROZEN)] == [7, 7, 6]


def test_videos_in_a_tar_file_are_validated_and_prepared_as_files_are(tmp_path: Path) -> None:
    plain, packed = Workspace(tmp_path / "plain"), Workspace(tmp_path / "packed")
    for number in range(2):
        make_video(plain.data / f"{number}.mp4", seed=number)
    packed.data.mkdir(parents=True)
    with tarfile.open(packed.data / "000.tar", "w") as tar:
        for number in range(2):
            tar.add(plain.data / f"{number}.mp4", f"{number}.mp4")
    rows = []
    for workspace, folder in ((plain, ""), (packed, "000.tar/")):
        write_lines(workspace.data / "videos.jsonl", *({"video_id": f"v{n}", "path": f"{folder}{n}.mp4"} for n in range(2)))
        pairs = [
            {"query": "first", "target": {"video": "v0", "start": 0.2, "end": 0.6}, "split": "train"},
            {"query": "second", "target": {"video": "v1"}, "split": "test"},
        ]
        write_lines(workspace.data / "pairs.jsonl", *pairs)
        validate.run(workspace, Params())
        assert not failed(workspace) - {("videos_advice", "every video is the query or target of a pair")}
        preprocess.run(workspace, Params())
        store = Prepared.open(workspace.prepared).store
        rows.append({video: store.get(video).rows for video in store.video_ids})
    assert rows[0].keys() == rows[1].keys() == {"v0", "v1", "v0#t=0.2,0.6"}
    for video, expected in rows[0].items():
        np.testing.assert_array_equal(rows[1][video], expected)
