"""Evaluation, index and searches compute in the precision of the training, or in that of `evaluate.precision`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import reelnest
from reelnest.commands.index import open_searchers
from reelnest.encoder.embedding import embed
from reelnest.engines.folder import FolderEngine
from reelnest.errors import ModelError
from reelnest.settings import Evaluate, Params, Precision, Validate
from reelnest.store.entries import Entry
from reelnest.video.decoder import Limits
from tests.integration.serving.served_corpus import PARAMS, Served, read_videos

LIMITS = Limits.of(Validate())


@pytest.fixture
def trained_in_bf16(copy: Served) -> Served:
    """The first model says that it was trained in bfloat16."""
    path = copy.root / "models" / "one" / "reelnest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": "bf16"}))
    return copy


def evaluated(folder: Path, entries: list[Entry], precision: Precision | None) -> np.ndarray:
    """The vectors of an evaluation, which opens its model and embeds like this."""
    model = reelnest.load(folder, device="cpu", precision=precision)
    vectors = embed(model.encoder, model.batcher, entries, PARAMS.evaluate.batch_size, "items")
    return np.asarray(normalize(vectors, dim=1))


def test_evaluation_index_and_search_have_the_same_vectors_to_the_last_bit(trained_in_bf16: Served) -> None:
    served = trained_in_bf16
    model = reelnest.load(served.root / "models" / "one", device="cpu")
    videos = [video for video in read_videos(served.data) if "path" in video and video["video_id"] != "bad"]
    files = [served.data / str(video["path"]) for video in videos]
    entries = [Entry("target", f"title: {video['title']}", model.videos.frames(file)) for video, file in zip(videos, files, strict=True)]
    (served.data / "videos.jsonl").write_text("".join(json.dumps(video) + "\n" for video in videos))

    assert served.index("one", "one").encoded == len(videos)
    index = FolderEngine(str(served.root / "one"))
    assert index.manifest.precision == "bf16"
    expected = evaluated(served.root / "models" / "one", entries, None)
    stored = np.load(next(index.folder.glob("*.npy")))
    assert {row.tobytes() for row in stored} == {row.tobytes() for row in expected}
    assert not np.array_equal(expected, evaluated(served.root / "models" / "one", entries, "no"))

    # A search follows the index, whatever the settings are by now.
    exact = Params(evaluate=Evaluate(precision="no"))
    [searcher] = open_searchers(served.workspace, exact, [str(served.root / "one")])
    query = searcher.model.encode([Entry("query", "a red circle", None)])[0]
    assert query.tobytes() == model.encode_texts(["a red circle"])[0].tobytes()
    searcher.model.close()


def test_another_precision_encodes_the_videos_again(trained_in_bf16: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    served = trained_in_bf16
    first = served.index("one", "one")
    assert served.index("one", "one").encoded == 0
    monkeypatch.setattr("tests.integration.serving.served_corpus.PARAMS", Params(evaluate=Evaluate(precision="no")))
    again = served.index("one", "one")
    assert (again.encoded, again.manifest.precision) == (first.manifest.videos, "no")


def test_the_precision_of_the_training_is_saved_and_fp16_is_for_gpus(copy: Served) -> None:
    folder = copy.root / "models" / "one"
    path = folder / "reelnest.json"
    stored = json.loads(path.read_text())
    assert stored["precision"] == "no"
    path.write_text(json.dumps(stored | {"precision": "fp16"}))
    assert reelnest.load(folder, device="cpu").encoder.autocast_dtype is None
    assert reelnest.load(folder, device="cpu", precision="bf16").encoder.autocast_dtype is torch.bfloat16
    with pytest.raises(ModelError, match=r"fp16 needs a GPU.*Use bf16 or no"):
        reelnest.load(folder, device="cpu", precision="fp16")
