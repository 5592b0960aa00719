"""The arguments of a loaded model: what is refused, before anything is encoded, and what is accepted."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reelnest
from reelnest.encoder.saved import save_model
from reelnest.errors import ModelError
from reelnest.settings import Model, Preprocess
from reelnest.store.entries import Entry
from tests.integration.registry.candidate_workspace import write_clip
from tests.support.model_inputs import trained

CLIP = "nope.mp4"


@pytest.fixture(scope="module")
def saved(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(folder, *trained(tiny_base, Model()), Model(), Preprocess(frames=4, min_pixels=3136, max_pixels=3136), None)
    return folder


@pytest.mark.parametrize(
    ("encode", "words"),
    [
        (lambda model: model.encode_texts("x"), "texts is a single str; expected a list. Write [texts]."),
        (lambda model: model.encode_texts(None), "texts is None; expected a list."),
        (lambda model: model.encode_texts({"a": 1}), "texts is of type dict; expected a list."),
        (lambda model: model.encode_texts(["a"], dim="64"), "dim is '64'; expected an int from 1 to 128."),
        (lambda model: model.encode_texts(["a"], dim=True), "dim is True; expected an int from 1 to 128."),
        (lambda model: model.encode_texts(["a"], batch_size=2.5), "batch_size is 2.5; expected an int."),
        (lambda model: model.encode_videos(["nope.mp4"], dim=64.0), "dim is 64.0; expected an int"),
        (lambda model: model.encode_texts(["a", None]), "texts[1] is None; expected a str."),
        (lambda model: model.encode_videos("a.mp4"), "videos is a single str; expected a list. Write [videos]."),
        (lambda model: model.encode_videos(Path("a.mp4")), "videos is a single PosixPath; expected a list."),
        (lambda model: model.encode_videos([np.zeros((4, 56, 56, 3))]), "videos[0] is of type numpy.ndarray; expected the path of a video"),
        (lambda model: model.encode_videos([["a.png", 7]]), "videos[0] is of type list; expected the path of a video"),
        (lambda model: model.encode_videos([CLIP], fields=[{"title": None}]), "fields[0]['title'] is None; expected a str."),
        (lambda model: model.encode_videos([CLIP], fields=[None]), "fields[0] is None; expected a mapping of names to texts"),
        (lambda model: model.encode_videos([CLIP], fields={"title": "x"}), "fields is of type dict; expected a list."),
        (lambda model: model.encode_videos([CLIP], segments=5), "segments is of type int; expected a list."),
        (lambda model: model.encode(None), "entries is None; expected a list."),
        (lambda model: model.encode(["x"]), "entries has a str; expected Entry. For texts use encode_texts"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_at_the_door(saved: Path, encode: Callable[[Any], object], words: str) -> None:
    model = reelnest.load(saved, device="cpu")
    with pytest.raises(TypeError, match=re.escape(words)):
        encode(model)


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda saved: reelnest.load(saved, device="gpu"), ModelError, "device is 'gpu'; expected cpu, cuda or a GPU such as cuda:1."),
        (lambda saved: reelnest.load(saved, device="mps"), ModelError, "device is 'mps'; expected cpu, cuda or a GPU such as cuda:1."),
        (lambda saved: reelnest.load(saved, device="cuda:99"), ModelError, "device is 'cuda:99', and torch finds "),
        (lambda saved: reelnest.load(saved, precision="fp8"), ValueError, "precision is 'fp8'; expected one of 'no', 'bf16', 'fp16'."),
        (lambda saved: reelnest.load(saved / "reelnest.json"), ModelError, "reelnest.json is a file; expected the folder of a saved model"),
        (lambda saved: reelnest.load(saved, device="cpu").encode_texts(["a"], role="querry"), ValueError, "role is 'querry'; expected"),
        (lambda saved: reelnest.load(saved, device="cpu").encode_texts(["a"], batch_size=0), ValueError, "batch_size is 0; expected 1"),
        (lambda saved: reelnest.load(saved, device="cpu").encode_texts(["\ud800"]), ValueError, "texts[0] has half a surrogate pair"),
        # The dim is checked before the videos are decoded.
        (lambda saved: reelnest.load(saved, device="cpu").encode_videos(["nope.mp4"], dim=0), ModelError, "dim 0: use a dim from 1 to 128"),
    ],
)
def test_a_wrong_value_is_named_with_those_that_are_possible(
    saved: Path, use: Callable[[Any], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        use(saved)


def test_only_a_folder_or_a_registered_model_is_loaded() -> None:
    with pytest.raises(TypeError, match="model is None; expected a folder, or a registered model such as 'models:/reelnest@champion'"):
        reelnest.load(None)  # type: ignore[arg-type]  # it has to be refused


def test_iterators_are_read_once(saved: Path, tmp_path: Path) -> None:
    model = reelnest.load(saved, device="cpu")
    texts = ["a red circle", "a blue square"]
    np.testing.assert_array_equal(model.encode_texts(text for text in texts), model.encode_texts(texts))  # type: ignore[arg-type]  # no Sequence
    entries = [Entry("query", text, None) for text in texts]
    np.testing.assert_array_equal(model.encode(iter(entries)), model.encode(entries))  # type: ignore[arg-type]  # no Sequence
    clip = write_clip(tmp_path / "clip.mp4", 40)
    try:
        one_by_one = model.encode_videos(iter([clip]), fields=iter([{"title": "a"}]), segments=iter([(0.0, 0.5)]))  # type: ignore[arg-type]  # no Sequence
        np.testing.assert_array_equal(one_by_one, model.encode_videos([clip], fields=[{"title": "a"}], segments=[(0.0, 0.5)]))
    finally:
        model.close()
