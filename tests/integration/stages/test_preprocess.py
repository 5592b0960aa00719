import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from reelnest.encoder.saved import FORMAT, FORMAT_VERSION
from reelnest.errors import DataError
from reelnest.evaluation.by_query import data_hash
from reelnest.evaluation.retrieval_sets import retrieval_sets
from reelnest.records.formats import BadRecord, write_quarantine
from reelnest.settings import Data, Model, Params, Preprocess, Validate
from reelnest.stages import preprocess
from reelnest.stages.measure import prepared_for
from reelnest.stages.workspace import Workspace
from reelnest.store.frame_cache import FrameCache
from reelnest.store.prepared import Prepared
from reelnest.video.patches import from_patches

MakeVideo = Callable[..., Path]
SETTINGS = Preprocess(frames=4, min_pixels=3136, max_pixels=3136)
PARAMS = Params(preprocess=SETTINGS)


@pytest.fixture
def workspace(tmp_path: Path, make_video: MakeVideo) -> Workspace:
    """Six videos, of which video 5 has no pair, with a pair or two for each other."""
    root = tmp_path / "checkout"
    for number in range(6):
        make_video(f"checkout/data/clips/{number}.mp4", frames=10 + number)
    videos = [{"video_id": f"v{number}", "path": f"clips/{number}.mp4", "title": f"Title {number}", "ocr": "EXIT"} for number in range(6)]
    pairs = [{"query": {"text": f"query {number}"}, "target": {"video": f"v{number}"}, "split": "train"} for number in range(4)]
    pairs.append({"query": {"video": "v4"}, "target": {"text": "query 0"}, "split": "test", "negatives": [{"video": "v1"}]})
    write_data(root, videos, pairs)
    write_quarantine(root / "reports" / "quarantine.jsonl", [])
    return Workspace(root)


def write_data(root: Path, videos: list[dict[str, object]], pairs: list[dict[str, object]]) -> None:
    for name, records in (("videos", videos), ("pairs", pairs)):
        (root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def add_video(workspace: Workspace, **record: object) -> None:
    with (workspace.data / "videos.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def decoded(workspace: Workspace) -> int:
    return int(json.loads((workspace.work / "preprocessing.json").read_text())["decoded"])


def report(workspace: Workspace) -> dict[str, object]:
    return dict(json.loads((workspace.reports / "preprocessing.json").read_text()))


def remove(folder: Path) -> None:
    """What DVC does to a stage's outputs before it runs."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_everything_that_training_needs_is_prepared(workspace: Workspace) -> None:
    preprocess.run(workspace, PARAMS)
    prepared = Prepared.open(workspace.prepared)
    keys = [(prepared.item(index).kind, prepared.item(index).key) for index in range(len(prepared))]
    assert keys == [("text", f"query {number}") for number in range(4)] + [("video", f"v{number}") for number in range(6)]
    train, test = prepared.pairs("train"), prepared.pairs("test")
    assert (train.queries.tolist(), train.targets.tolist()) == ([0, 1, 2, 3], [4, 5, 6, 7])
    assert (test.queries.tolist(), test.targets.tolist(), test.negatives[0].tolist()) == ([8], [0], [5])
    entry = prepared.entry(9, "target")
    assert entry.text == "title: Title 5\nocr: EXIT"
    assert entry.frames is not None
    brightness = from_patches(entry.frames.rows, entry.frames.grid_thw, entry.frames.vision).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(brightness, [0, 20, 36, 56], atol=6)  # frames 0, 5, 9 and 14 of 15
    found = report(workspace)
    assert (found["videos"], found["texts"], found["videos_by_grid"]) == (6, 4, {"2x4x4": 6})
    assert (found["videos_by_decoder"], found["decoder_of"]) == ({"pyav": 6}, {})
    assert found["pairs"] == {
        "all": {"all": 5, "text_to_video": 4, "video_to_text": 1},
        "train": {"all": 4, "text_to_video": 4},
        "test": {"all": 1, "video_to_text": 1},
    }


def test_a_second_run_decodes_nothing_and_gives_the_same_bytes(workspace: Workspace) -> None:
    preprocess.run(workspace, PARAMS)
    assert decoded(workspace) == 6
    first, first_report = content(workspace.prepared), report(workspace)
    remove(workspace.prepared)
    preprocess.run(workspace, PARAMS)
    assert decoded(workspace) == 0
    assert content(workspace.prepared) == first
    assert report(workspace) == first_report


def test_of_two_checkouts_that_share_a_cache_one_waits(workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = tmp_path / "shared" / "frames"
    shared.mkdir(parents=True)
    workspace.work.mkdir()
    (workspace.work / "frames").symlink_to(shared)
    caplog.set_level("INFO")
    other = FileLock(shared.with_name("frames.lock"))
    thread = threading.Thread(target=preprocess.run, args=(workspace, PARAMS))
    with other:
        thread.start()
        deadline = time.monotonic() + 30
        while "waiting for another process" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not workspace.prepared.exists()
    thread.join()
    assert decoded(workspace) == 6


def test_one_video_more_is_the_only_one_decoded(workspace: Workspace, make_video: MakeVideo, tmp_path: Path) -> None:
    preprocess.run(workspace, PARAMS)
    remove(workspace.prepared)
    make_video("checkout/data/clips/new.mp4", frames=30)
    add_video(workspace, video_id="another", path="clips/new.mp4")
    preprocess.run(workspace, PARAMS)
    assert decoded(workspace) == 1
    incremental = content(workspace.prepared)
    remove(workspace.prepared)
    remove(workspace.work)
    preprocess.run(workspace, PARAMS)
    assert decoded(workspace) == 7
    assert content(workspace.prepared) == incremental


def test_changed_bytes_and_changed_sampling_are_decoded_again(workspace: Workspace, make_video: MakeVideo) -> None:
    preprocess.run(workspace, PARAMS)
    make_video("checkout/data/clips/2.mp4", frames=40)
    preprocess.run(workspace, PARAMS)
    assert decoded(workspace) == 1
    preprocess.run(workspace, Params(preprocess=SETTINGS.model_copy(update={"frames": 2})))
    assert decoded(workspace) == 6
    assert report(workspace)["videos_by_grid"] == {"1x4x4": 6}


def test_what_validation_quarantined_is_left_out(workspace: Workspace) -> None:
    quarantined = [BadRecord("videos.jsonl", 6, "timeout", ""), BadRecord("pairs.jsonl", 2, "text_too_long", "")]
    write_quarantine(workspace.reports / "quarantine.jsonl", quarantined)
    preprocess.run(workspace, PARAMS)
    prepared = Prepared.open(workspace.prepared)
    assert "v5" not in prepared.store
    assert "query 1" not in [prepared.item(index).key for index in range(len(prepared))]
    assert len(prepared.pairs("train")) == 3


def test_only_the_chosen_text_fields_are_kept_in_the_order_chosen(workspace: Workspace) -> None:
    preprocess.run(workspace, Params(preprocess=SETTINGS, data=Data(text_fields=("ocr", "caption", "title"))))
    prepared = Prepared.open(workspace.prepared)
    assert prepared.item(4).fields == (("ocr", "EXIT"), ("title", "Title 0"))
    preprocess.run(workspace, Params(preprocess=SETTINGS, data=Data(text_fields=())))
    assert decoded(workspace) == 0
    assert Prepared.open(workspace.prepared).item(4).fields == ()


def test_a_video_that_fails_after_all_goes_with_its_pairs_until_there_are_too_many(workspace: Workspace) -> None:
    (workspace.data / "clips" / "1.mp4").write_text("overwritten since\n")
    tolerant = Params(preprocess=SETTINGS, validation=Validate(max_quarantined_fraction=0.2))
    preprocess.run(workspace, tolerant)
    prepared = Prepared.open(workspace.prepared)
    assert "v1" not in prepared.store
    assert len(prepared.pairs("train")) == 3
    assert len(prepared.pairs("test")) == 0  # its pair lists v1 as a negative
    dropped = report(workspace)["dropped"]
    assert isinstance(dropped, dict)
    assert (dropped["videos"], dropped["by_reason"], dropped["pairs"]) == (1, {"not_a_video": 1}, 2)
    before = content(workspace.prepared)
    with pytest.raises(DataError, match=r"1 of 6 videos .* \(not_a_video 1\).*max_quarantined_fraction.*\(0\.05\).*v1: 1\.mp4"):
        preprocess.run(workspace, PARAMS)
    assert content(workspace.prepared) == before


def test_without_validation_there_is_no_preprocessing(workspace: Workspace) -> None:
    (workspace.reports / "quarantine.jsonl").unlink()
    with pytest.raises(DataError, match="reelnest validate"):
        preprocess.run(workspace, PARAMS)
    write_quarantine(workspace.reports / "quarantine.jsonl", [])
    with (workspace.data / "pairs.jsonl").open("a") as file:
        file.write('{"query": "half a li\n')
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 6.*reelnest validate"):
        preprocess.run(workspace, PARAMS)
    assert not workspace.prepared.exists()


def test_a_run_killed_half_way_keeps_what_it_decoded(workspace: Workspace, make_video: MakeVideo) -> None:
    for number in range(14):
        make_video(f"checkout/data/clips/more-{number}.mp4", frames=100 + number, key_every=1000)
        add_video(workspace, video_id=f"more-{number}", path=f"clips/more-{number}.mp4")
    code = (
        "import sys; from pathlib import Path; from reelnest.settings import Params, Preprocess\n"
        "from reelnest.stages import preprocess; from reelnest.stages.workspace import Workspace\n"
        f"preprocess.run(Workspace(Path(sys.argv[1])), Params(preprocess=Preprocess.model_validate({SETTINGS.model_dump()!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(workspace.root)]) as process:
        deadline = time.monotonic() + 60
        while not list((workspace.work / "frames").glob("*/*/*.arrow")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert not workspace.prepared.exists()
    kept = len(FrameCache(workspace.work / "frames")._places)
    assert 0 < kept < 20

    preprocess.run(workspace, PARAMS)
    assert decoded(workspace) == 20 - kept
    resumed = content(workspace.prepared)
    assert not list(workspace.root.glob(".prepared.*"))
    remove(workspace.prepared)
    remove(workspace.work)
    preprocess.run(workspace, PARAMS)
    assert content(workspace.prepared) == resumed


def test_the_real_clips_are_prepared(shared_clips: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    videos = [json.loads(line) for line in (shared_clips / "videos.jsonl").read_text().splitlines()][:20]
    names = {str(video["video_id"]) for video in videos}
    pairs = [json.loads(line) for line in (shared_clips / "pairs.jsonl").read_text().splitlines()]
    for video in videos:
        target = tmp_path / "data" / "clips" / Path(str(video["path"])).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((shared_clips / str(video["path"])).read_bytes())
        video["path"] = f"clips/{target.name}"
    write_data(tmp_path, videos, [pair for pair in pairs if pair["target"]["video"] in names])
    write_quarantine(workspace.reports / "quarantine.jsonl", [])
    preprocess.run(workspace, Params(preprocess=Preprocess(frames=8, max_pixels=112 * 112)))
    prepared = Prepared.open(workspace.prepared)
    assert set(prepared.store.video_ids) == names
    assert all(prepared.store.get(name).rows.std() > 1 for name in names)


def test_a_champion_that_reads_videos_otherwise_gets_the_same_data_prepared_as_it_reads_it(workspace: Workspace) -> None:
    preprocess.run(workspace, PARAMS)
    before = content(workspace.prepared)
    champion = workspace.root / "champion"
    champion.mkdir()
    (champion / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    about = {"format": FORMAT, "format_version": FORMAT_VERSION, "model": Model().model_dump(mode="json")}

    def prepared_as(frames: int, text_fields: list[str] | None) -> Path:
        stored = SETTINGS.model_dump(include={"sampling", "frames", "fps", "min_pixels", "max_pixels"}) | {"frames": frames}
        (champion / "reelnest.json").write_text(json.dumps(about | {"preprocess": stored, "text_fields": text_fields}))
        return prepared_for(workspace, PARAMS, champion)

    assert prepared_as(4, None) == workspace.prepared
    folder = prepared_as(8, ["title"])
    ours, theirs = Prepared.open(workspace.prepared), Prepared.open(folder)
    assert (theirs.entry(9, "target").text, theirs.store.grids[0].tolist()) == ("title: Title 5", [4, 4, 4])
    hashes = {data_hash(retrieval_sets(prepared, "test"), prepared) for prepared in (ours, theirs)}
    assert len(hashes) == 1, "the same questions about the same videos"
    assert content(workspace.prepared) == before
