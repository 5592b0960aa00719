"""Broken videos in quarantine."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from reelnest.records.formats import known_ids, read_pairs, read_quarantine, read_videos
from reelnest.stages import validate
from reelnest.stages.workspace import Workspace
from tests.integration.stages.validated_data import allowing, failed, make_video, quarantine, report, write_lines

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
    assert {suite for suite, _ in failed(broken)} == {"videos_found", "pairs_found", "videos_advice"}  # the pictures have one colour
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
