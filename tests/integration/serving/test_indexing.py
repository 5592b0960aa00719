"""Building an index: it is atomic, and nothing is encoded twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import reelnest
from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.commands.index import open_searchers
from reelnest.engines.folder import FolderEngine
from reelnest.errors import ConfigError, DataError, ModelError, QueryError
from reelnest.settings import Validate
from reelnest.store.frame_cache import FrameCache
from reelnest.store.frame_store_writing import write_store
from reelnest.store.prepared import STORE_FOLDER
from reelnest.video.decoder import Decoder, Limits
from tests.integration.serving.served_corpus import PARAMS, Served, read_videos, write_videos
from tests.support.video_keys import video_key


def opened(folder: Path) -> FolderEngine:
    return FolderEngine(str(folder))


def video_ids(index: FolderEngine) -> list[str]:
    width = index.manifest.width
    return sorted(index.search(np.ones(width, dtype=np.float32), 1000, dim=width).ids)


def keys_of(index: FolderEngine) -> dict[str, str]:
    table = pq.read_table(index.folder / "videos.parquet")
    return dict(zip(table["video_id"].to_pylist(), table["key"].to_pylist(), strict=True))


def vectors_of(index: FolderEngine) -> dict[str, np.ndarray]:
    keys = keys_of(index)
    vectors = index.vectors(keys.values())
    return {video_id: vectors[key] for video_id, key in keys.items()}


def test_an_index_holds_the_vectors_that_the_model_gives(served: Served) -> None:
    index = opened(served.root / "one")
    assert (index.manifest.videos, index.manifest.skipped, index.manifest.dims) == (21, 1, (16, 64, 128))
    [video] = index.get(["clip/03"])
    model = reelnest.load(served.root / "models/one", device="cpu")
    expected = model.encode_videos([served.data / str(video.path)], fields=[video.fields])
    model.close()
    np.testing.assert_allclose(vectors_of(index)["clip/03"], expected[0], atol=1e-5)
    assert video_ids(index) == [*(f"clip/{number:02}" for number in range(20)), "images"]


def test_videos_that_cannot_be_read_are_left_out_and_listed(served: Served) -> None:
    (line,) = (served.root / "one/skipped.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["video_id"], record["line"], record["reason"]) == ("bad", 22, "not_a_video")
    assert str(served.root) not in line


def test_only_what_changed_is_encoded_again(copy: Served) -> None:
    before = vectors_of(opened(copy.root / "one"))
    assert copy.index().encoded == 0
    np.testing.assert_equal(vectors_of(opened(copy.root / "one")), before)

    videos = read_videos(copy.data)
    videos[4]["title"] = "another title"  # another text
    shutil.copy(copy.data / "videos/07.mp4", copy.data / "videos/05.mp4")  # other bytes
    del videos[6]
    write_videos(copy.data, videos)
    assert copy.index().encoded == 2
    after = vectors_of(opened(copy.root / "one"))
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert changed == {"clip/04", "clip/05"}
    assert set(before) - set(after) == {"clip/06"}
    assert copy.index(model="two").encoded == 20  # vectors of another model cannot be reused


def test_frames_that_preprocessing_decoded_are_not_decoded_again(copy: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = reelnest.load(copy.root / "models/one", device="cpu").frame_settings
    cache = FrameCache(copy.root / "scratch")
    keys = []
    with Decoder(Limits.of(Validate())) as decoder:
        for number in range(20):
            file = copy.data / f"videos/{number:02}.mp4"
            keys.append((f"other name {number}", video_key([file], settings)))
            cache.add(keys[-1][1], decoder.frames([file], settings))
    write_store(copy.workspace.prepared / STORE_FOLDER, keys, cache, 1.0, VISION)
    decoded: list[Path] = []
    decode = Decoder.frames
    monkeypatch.setattr(Decoder, "frames", lambda self, files, *how: (decoded.extend(files), decode(self, files, *how))[1])
    copy.index("fresh")
    assert {file.name for file in decoded} == {"frame0.png", "frame1.png", "frame2.png", "notes.mp4"}
    expected = vectors_of(opened(copy.root / "one"))
    for name, vector in vectors_of(opened(copy.root / "fresh")).items():
        np.testing.assert_allclose(vector, expected[name], atol=1e-5)


def test_a_killed_run_leaves_the_previous_index_and_the_next_run_resumes(copy: Served) -> None:
    code = (
        "import sys, time; from pathlib import Path; from reelnest.settings import Evaluate, Params\n"
        "from reelnest.commands import index; from reelnest.stages.workspace import Workspace\n"
        "from reelnest.serving.cached_vectors import CachedVectors\n"
        "add = CachedVectors.add\n"
        "def slowly(self, keys, vectors): add(self, keys, vectors); time.sleep(60)\n"
        "CachedVectors.add = slowly\n"
        "root = Path(sys.argv[1]); params = Params(evaluate=Evaluate(batch_size=8))\n"
        "index.run(Workspace(root), params, str(root / 'models/two'), root / 'data', str(root / 'one'))"
    )
    before = (copy.root / "one/manifest.json").read_bytes()
    with subprocess.Popen([sys.executable, "-c", code, str(copy.root)], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not list(copy.workspace.work.glob("index/*/*/*.npz")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert (copy.root / "one/manifest.json").read_bytes() == before
    (copy.root / ".one.0123456789abcdef").mkdir()  # left by a run that was killed while it wrote
    assert copy.index(model="two").encoded == 21 - 8
    assert opened(copy.root / "one").manifest.dims == (32, 128)
    expected = vectors_of(opened(copy.root / "two"))
    for name, vector in vectors_of(opened(copy.root / "one")).items():
        np.testing.assert_allclose(vector, expected[name], atol=1e-5)
    assert not list(copy.root.glob(".one.*"))
    assert not list(copy.workspace.work.glob("index/*/*/*.npz"))


def test_a_graph_finds_what_exact_search_finds(copy: Served) -> None:
    copy.index("graph", storage="float16", graph=True)
    exact, graph = opened(copy.root / "one"), opened(copy.root / "graph")
    assert graph.manifest.graph_dim == 16
    assert {vector.dtype for vector in vectors_of(graph).values()} == {np.dtype(np.float16)}
    for query in vectors_of(exact).values():
        expected, approximate = (index.search(query, 5, dim=16, shortlist=100) for index in (exact, graph))
        assert expected.dims == approximate.dims == (16, 128)
        assert expected.ids == approximate.ids
        np.testing.assert_allclose(approximate.scores, expected.scores, atol=2e-3)


def test_an_index_is_as_small_as_the_report_recommends(copy: Served) -> None:
    assert copy.index("small", storage="int8", dim=64).encoded == 21
    assert copy.index("small", storage="int8", dim=64).encoded == 0  # the codes do not give the vectors back: they are in work/
    assert copy.index("small", storage="binary", dim=16).encoded == 0
    assert copy.index("one", storage="float16", dim=64).encoded == 21
    copy.index("one")
    assert copy.index("one", storage="binary_int8", dim=64).encoded == 0  # from the index before, which had all numbers
    copied = {**read_videos(copy.data)[3], "video_id": "again"}
    write_videos(copy.data, [*read_videos(copy.data), copied])
    assert copy.index("one", storage="binary_int8", dim=64).encoded == 0  # the same bytes and texts
    write_videos(copy.data, [*read_videos(copy.data), {**copied, "video_id": "new", "title": "another title"}])
    assert copy.index("one", storage="binary_int8", dim=64).encoded == 1
    assert [file.name for file in sorted((copy.root / "one").glob("*.npy"))] == ["scales.npy", "signs.npy", "vectors.npy"]
    (searcher,) = open_searchers(copy.workspace, PARAMS, [str(copy.root / "one")])
    whole = searcher.words("a red ring", 30)
    assert (len(whole.hits), whole.dims) == (23, (64,))
    assert searcher.words("a red ring", 3, dim=16).dims == (16,)
    assert [hit.video_id for hit in searcher.words("a red ring", 3, where='colour == "red" and number > 3').hits] == ["clip/04"]
    with pytest.raises(QueryError, match="stores signs"):
        searcher.words("a red ring", 3, funnel=True)
    with pytest.raises(QueryError, match="dims 1 to 64"):
        searcher.words("a red ring", 3, dim=128)
    searcher.model.close()


def test_dims_and_storage_types_that_are_not_possible_are_refused(copy: Served) -> None:
    with pytest.raises(ConfigError, match=r"dim 65: the model was trained for 16, 64, 128"):
        copy.index(dim=65)
    with pytest.raises(ConfigError, match=r"storage int4: .*one can store float32, float16, int8, binary, binary_int8"):
        copy.index(storage="int4")


@pytest.mark.parametrize("missing", ["vectors.npy", "videos.parquet", "manifest.json"])
def test_an_incomplete_index_is_refused(served: Served, tmp_path: Path, missing: str) -> None:
    folder = Path(shutil.copytree(served.root / "one", tmp_path / "one"))
    (folder / missing).unlink()
    with pytest.raises(DataError, match="reelnest index"):
        _ = opened(folder).manifest


def test_missing_models_and_data_without_videos_are_refused(copy: Served) -> None:
    with pytest.raises(ModelError, match="no saved model"):
        copy.index(model="three")
    write_videos(copy.data, [{"video_id": "bad", "path": "videos/notes.mp4"}])
    with pytest.raises(DataError, match="no video that can be read"):
        copy.index("none")
    assert not (copy.root / "none").exists()
    write_videos(copy.data, [{"video_id": "alone", "path": "videos/01.mp4"}])
    assert copy.index("alone").manifest.videos == 1
    index = opened(copy.root / "alone")
    assert index.search(vectors_of(index)["alone"], 10, dim=16, shortlist=100).ids == ["alone"]
