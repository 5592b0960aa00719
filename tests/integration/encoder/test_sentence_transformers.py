"""Sentence-transformers computes our vectors from a saved model: through transformers alone and, with the peers installed, directly."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import reelnest
from reelnest.backbones.families.qwen2_5_vl import VISION
from reelnest.encoder.saved import save_model
from reelnest.encoder.video_reading import sentence_transformers_input
from reelnest.settings import Lora, Model, Preprocess
from reelnest.store.entries import Entry
from reelnest.video.frames import Frames
from tests.support.model_inputs import random_video, trained

ROOT = Path(__file__).parents[3]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
PREPROCESS = Preprocess(frames=4, min_pixels=3136, max_pixels=50_176)
TEXTS = ["a red circle moves", " ein grünes Quadrat — kreist", "左へ動く円", "\n\n…", "a blue square grows " * 200]
"""The last is longer than what the models read of a text."""
VIDEOS = [random_video(1, (4, 4, 4), 0.5), random_video(2, (3, 12, 16), 1 / 3), random_video(3, (1, 4, 6), 0.07)]
FIELDS = ["", "title: two stars\ncaption: 緑", ""]
INSTRUCTIONS = {"query_instruction": "Find the video.", "target_instruction": "Describe: what this shows"}
SETTINGS = {
    "last": Model(pooling="last", **INSTRUCTIONS),  # type: ignore[arg-type]  # texts by name
    "mean": Model(pooling="mean"),
    "last-projected": Model(pooling="last", projection=48, dims=(16, 48), **INSTRUCTIONS),  # type: ignore[arg-type]  # texts by name
    "mean-projected-lora": Model(pooling="mean", projection=32, dims=(16, 32), lora=Lora(r=4), max_text_tokens=40),
    "bfloat16": Model(pooling="last", projection=32, dims=(16, 32), dtype="bfloat16", query_instruction="Find."),
}


@pytest.fixture(scope="module")
def models(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers") / "models"
    for name, settings in SETTINGS.items():
        save_model(folder / name, *trained(tiny_base, settings), settings, PREPROCESS, None)
    return folder


@pytest.fixture(scope="module")
def ours(models: Path) -> dict[str, np.ndarray]:
    """Vectors by `model/kind/dim`, as `open_with_sentence_transformers.py` names them."""
    vectors = {}
    videos = [Entry("target", text, frames) for text, frames in zip(FIELDS, VIDEOS, strict=True)]
    for name, settings in SETTINGS.items():
        model = reelnest.load(models / name, device="cpu")
        for dim in (*settings.dims, None):
            vectors[f"{name}/query/{dim}"] = model.encode_texts(TEXTS, dim=dim)
            vectors[f"{name}/document/{dim}"] = model.encode_texts(TEXTS[:-1], role="target", dim=dim)
            vectors[f"{name}/video/{dim}"] = model.encode(videos, dim=dim)
            vectors[f"{name}/mixed/{dim}"] = model.encode([Entry("target", TEXTS[0], None), videos[0]], dim=dim)
        vectors[f"{name}/plain/None"] = vectors[f"{name}/document/None"]
    return vectors


def tolerance(name: str) -> float:
    return 0.05 if name.startswith("bfloat16") else 1e-4


def test_transformers_alone_makes_the_same_vectors_of_the_folder(models: Path, ours: dict[str, np.ndarray]) -> None:
    for name in SETTINGS:
        if name == "bfloat16":
            continue
        reader = Reader(models / name)
        queries = [reader.vector("query", text, None) for text in TEXTS[:-1]]
        np.testing.assert_allclose(queries, ours[f"{name}/query/None"][:-1], atol=1e-4)
        videos = [reader.vector("document", text, frames) for text, frames in zip(FIELDS, VIDEOS, strict=True)]
        np.testing.assert_allclose(videos, ours[f"{name}/video/None"], atol=1e-4)


class Reader:
    """Reads the folder as sentence-transformers does, but for its processor, which needs torchvision."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.model = AutoModel.from_pretrained(folder)
        self.prompts = read(folder / "config_sentence_transformers.json")["prompts"]
        self.modules = [(module["type"].rpartition(".")[2], folder / module["path"]) for module in read(folder / "modules.json")]

    @torch.no_grad()
    def vector(self, prompt: str, text: str, frames: Frames | None) -> np.ndarray:
        content = [{"type": "text", "text": text}] + ([{"type": "video"}] if frames else [])
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.prompts[prompt]:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.prompts[prompt]}]})
        rendered = self.tokenizer.apply_chat_template(messages, tokenize=False)
        video: dict[str, Any] = {}
        if frames:
            video_input = sentence_transformers_input(frames, "")["video"]
            rendered = rendered.replace("<|video_pad|>", "<|video_pad|>" * (len(frames.rows) // 4))
            assert video_input["array"].shape[0] == 2 * frames.grid_thw[0]
            rows = torch.from_numpy(frames.rows.copy()).view(-1, 3, 392) / 255
            pixels = (rows - torch.tensor(VISION.mean)[:, None]) / torch.tensor(VISION.std)[:, None]
            video = {
                "pixel_values_videos": pixels.view(-1, 1176),
                "video_grid_thw": torch.tensor([frames.grid_thw]),
                "second_per_grid_ts": torch.tensor([2 / video_input["video_metadata"]["fps"]]),
            }
        ids = self.tokenizer(rendered, return_tensors="pt")["input_ids"]
        types = 2 * (ids == self.tokenizer.convert_tokens_to_ids("<|video_pad|>")).long()
        actual = self.model(input_ids=ids, mm_token_type_ids=types, use_cache=False, **video).last_hidden_state[0]
        for module, path in self.modules:
            if module == "Pooling":
                actual = actual[-1] if read(path / "config.json")["pooling_mode"] == "lasttoken" else actual.mean(0)
            elif module == "Dense":
                actual = load_file(path / "model.safetensors")["linear.weight"] @ actual
            elif module == "Normalize":
                actual = actual / actual.norm()
        return np.asarray(actual)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_an_instruction_that_cannot_be_left_out_of_the_mean_is_refused_and_not_pooled(
    tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Model(pooling="mean", target_instruction="Describe it.")
    save_model(tmp_path / "model", *trained(tiny_base, settings), settings, PREPROCESS, None)
    assert "sentence-transformers will refuse this model" in caplog.text
    assert [module["type"] for module in read(tmp_path / "model" / "modules.json")] == ["reelnest.SavedModel"]
    assert reelnest.load(tmp_path / "model", device="cpu").encode_texts(["a"]).shape == (1, 128)


@pytest.fixture(scope="module")
def theirs(models: Path, tiny_base: Path) -> Iterator[tuple[dict[str, np.ndarray], dict[str, str]]]:
    """The vectors of sentence-transformers for the same folders, and its reasons for refusing others."""
    if not PEERS.is_file():
        pytest.skip("no .venv-peers here: `make bench` makes it")
    settings = Model(pooling="mean", query_instruction="Find it.")
    save_model(models / "mean-instructed", *trained(tiny_base, settings), settings, PREPROCESS, None)
    inputs = [sentence_transformers_input(frames, text) for frames, text in zip(VIDEOS, FIELDS, strict=True)]
    folder = models.parent
    np.savez(folder / "videos.npz", **{str(i): item["video"]["array"] for i, item in enumerate(inputs)})
    described = {
        "metadata": [item["video"]["video_metadata"] for item in inputs],
        "rest": [{name: value for name, value in item.items() if name != "video"} for item in inputs],
    }
    (folder / "videos.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    script = Path(__file__).with_name("open_with_sentence_transformers.py")
    done = subprocess.run([str(PEERS), str(script), str(folder)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "vectors.npz") as archive:
        yield dict(archive), read(folder / "refused.json")


def test_sentence_transformers_gives_our_vectors(theirs: tuple[dict[str, np.ndarray], dict[str, str]], ours: dict[str, np.ndarray]) -> None:
    vectors, refused = theirs
    assert vectors.keys() == ours.keys()
    for name, expected in ours.items():
        np.testing.assert_allclose(vectors[name], expected, atol=tolerance(name), err_msg=name)
    assert refused.keys() == {"mean-instructed"}
    assert "reelnest.SavedModel" in refused["mean-instructed"]
