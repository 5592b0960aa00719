"""The saved folder of each family: other programs open it with our vectors, and it is written as servers read it."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import cosine_similarity
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

import reelnest
from reelnest.backbones.family import FAMILIES
from reelnest.encoder.saved import save_model
from reelnest.encoder.video_reading import sentence_transformers_input
from reelnest.settings import Lora, Model, Preprocess
from reelnest.video.sampling import FRAME_SAMPLERS, Clip
from tests.integration.encoder.plain_transformers import Plain
from tests.integration.encoder.test_sentence_transformers import PEERS
from tests.support.model_inputs import mixed_entries, trained

DIMS = (8, 16, 48)
PREPROCESS = Preprocess(frames=8, min_pixels=3136, max_pixels=3200)
"""Bounds that some of the videos of `mixed_entries` are not within. Resized frames may be outside, because their sides are whole tokens."""
SERVED_PREFIXES = {
    # `hf_to_vllm_mapper` of vLLM 0.32, without the head, and its own module of that name.
    "qwen2_vl": ("model.language_model.", "model.visual.", "visual.", "model."),
    "qwen2_5_vl": ("model.language_model.", "model.visual.", "visual.", "model."),
    "qwen3_vl": ("model.language_model.", "model.visual."),
    "qwen3_vl_embedding": ("model.language_model.", "model.visual."),
}
SERVED_CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_embedding": "Qwen3VLForConditionalGeneration",
}
MODULES = {
    # `_ST_POOLING_MODULE_TYPES` and its like in vLLM 0.32.
    "pooling": {"sentence_transformers.models.Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
    "projection": {"sentence_transformers.models.Dense", "sentence_transformers.base.modules.dense.Dense"},
    "normalize": {
        "sentence_transformers.models.Normalize",
        "sentence_transformers.base.modules.normalize.Normalize",
        "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
    },
}


def settings(base: Path, name: str, **others: Any) -> Model:
    values = {"dims": DIMS, "query_instruction": "Find it.", "target_instruction": "See it.", "lora": Lora(r=4), **others}
    return Model(name_or_path=str(base), family=name, pooling="last", **values)


@pytest.fixture(scope="module")
def saved(base: Path, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model with merged adapters."""
    model = settings(base, name)
    folder = tmp_path_factory.mktemp("saved") / "models" / name
    save_model(folder, *trained(base, model), model, PREPROCESS, None)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_transformers_has_the_vectors_of_the_folder_at_each_dim(saved: Path, name: str, base: Path) -> None:
    entries = mixed_entries(vision=FAMILIES[name].vision)
    with torch.no_grad():
        theirs = Plain(saved, name, settings(base, name)).vectors(entries)
    model = reelnest.load(saved, device="cpu")
    for dim in (*DIMS, 64):
        ours = torch.from_numpy(model.encode(entries, dim=dim))
        assert float(cosine_similarity(theirs[:, :dim], ours).min()) >= 0.99999


def test_a_model_trained_in_bfloat16_has_those_vectors_in_the_precision_of_its_weights(base: Path, name: str, tmp_path: Path) -> None:
    model, entries = settings(base, name), mixed_entries(vision=FAMILIES[name].vision)
    encoder, tokenizer = trained(base, model)
    encoder.autocast_dtype = torch.bfloat16
    save_model(tmp_path / "model", encoder, tokenizer, model, PREPROCESS, None)
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(Plain(tmp_path / "model", name, model).vectors(entries), dim=1)
    as_trained, as_weights = (
        torch.from_numpy(reelnest.load(tmp_path / "model", device="cpu", precision=precision).encode(entries, dim=64))
        for precision in (None, "no")
    )
    assert float(cosine_similarity(theirs, as_weights).min()) >= 0.99999
    assert 0.999 < float(cosine_similarity(theirs, as_trained).min()) < 0.99999


def test_vllm_knows_the_names_of_the_weights_and_the_dims(saved: Path, name: str) -> None:
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert all(key.startswith(SERVED_PREFIXES[name]) for key in file.keys())  # noqa: SIM118 (not a mapping)
    config = read(saved / "config.json")
    assert config["architectures"] == [SERVED_CLASSES[name]]
    assert config["is_matryoshka"] is True
    assert config["matryoshka_dimensions"] == list(DIMS)


def test_vllm_finds_pooling_projection_and_normalisation(base: Path, name: str, tmp_path: Path) -> None:
    model = settings(base, name, projection=48, lora=None)
    save_model(tmp_path / "model", *trained(base, model), model, PREPROCESS, None)
    modules = {module["path"]: module["type"] for module in read(tmp_path / "model" / "modules.json") if module["path"]}
    assert modules.keys() == MODULES.keys()
    assert all(modules[path] in known for path, known in MODULES.items())
    assert read(tmp_path / "model" / "pooling" / "config.json")["pooling_mode"] == "lasttoken"
    linear = read(tmp_path / "model" / "projection" / "config.json")
    assert (linear["in_features"], linear["out_features"], linear["bias"]) == (64, 48, False)


@pytest.mark.parametrize(("sampling", "seconds"), [("uniform", 3.0), ("uniform", 60.0), ("fps", 2.0), ("fps", 60.0)])
def test_transformers_samples_our_frames_by_the_saved_settings(
    base: Path, name: str, tmp_path: Path, sampling: str, seconds: float
) -> None:
    model = settings(base, name, lora=None)
    preprocess = PREPROCESS.model_copy(update={"sampling": sampling, "fps": 1.0})
    save_model(tmp_path / "model", *trained(base, model), model, preprocess, None)
    written = read(tmp_path / "model" / "video_preprocessor_config.json")
    assert written == read(tmp_path / "model" / "processor_config.json")["video_processor"]

    # Qwen2-VL's processor needs torchvision, and chooses as many frames at other places.
    total = round(25 * seconds)
    stand_in = SimpleNamespace(**{key: written[key] for key in ("fps", "min_frames", "max_frames")})
    theirs = Qwen3VLVideoProcessor.sample_frames(stand_in, VideoMetadata(total_num_frames=total, fps=25.0, duration=seconds))
    clip = Clip(np.arange(total) / 25, seconds, span=2)
    assert theirs.tolist() == FRAME_SAMPLERS[sampling].choose(clip, preprocess.frames, preprocess.fps).tolist()


def test_sentence_transformers_does_not_resize_frames_again(saved: Path) -> None:
    assert read(saved / "sentence_bert_config.json")["processing_kwargs"] == {"video": {"do_resize": False}}


def test_sentence_transformers_has_the_vectors_of_the_folder_at_each_dim(saved: Path, name: str) -> None:
    if not PEERS.is_file():
        pytest.skip("no .venv-peers here: `make bench` makes it")
    entries = mixed_entries(vision=FAMILIES[name].vision)
    texts = [entry.text for entry in entries if entry.frames is None]
    videos = [entry for entry in entries if entry.frames is not None]
    inputs = [sentence_transformers_input(entry.frames, entry.text) for entry in videos if entry.frames is not None]
    folder = saved.parent.parent
    np.savez(folder / "videos.npz", **{str(i): item["video"]["array"] for i, item in enumerate(inputs)})
    described = {
        "metadata": [item["video"]["video_metadata"] for item in inputs],
        "rest": [{key: value for key, value in item.items() if key != "video"} for item in inputs],
    }
    (folder / "videos.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "texts.json").write_text(json.dumps([*texts, "left out"]), encoding="utf-8")
    script = Path(__file__).with_name("open_with_sentence_transformers.py")
    done = subprocess.run([str(PEERS), str(script), str(folder)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    model = reelnest.load(saved, device="cpu")
    with np.load(folder / "vectors.npz") as vectors:
        for dim in DIMS:
            ours = {
                "query": model.encode_texts([*texts, "left out"], dim=dim),
                "document": model.encode_texts(texts, role="target", dim=dim),
                "video": model.encode(videos, dim=dim),
                "mixed": np.concatenate([model.encode_texts(texts[:1], role="target", dim=dim), model.encode(videos[:1], dim=dim)]),
            }
            for kind, expected in ours.items():
                theirs = vectors[f"{name}/{kind}/{dim}"]
                assert (theirs * expected).sum(1).min() >= 0.99999, (kind, dim)
