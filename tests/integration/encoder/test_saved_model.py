import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save
from transformers import Qwen2_5_VLModel

import reelnest
from reelnest.backbones.families.qwen2_5_vl import FAMILY, VISION
from reelnest.encoder.batches import Batcher
from reelnest.encoder.saved import save_model
from reelnest.errors import ModelError, VideoError
from reelnest.settings import Lora, Model, Preprocess
from reelnest.store.entries import Entry
from reelnest.video.patches import to_patches
from tests.support.model_inputs import mixed_entries, trained

PREPROCESS = Preprocess(frames=4, min_pixels=3136, max_pixels=3136)


@pytest.fixture(scope="module")
def saved(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    settings = Model(query_instruction="Find it.")
    save_model(folder, *trained(tiny_base, settings), settings, PREPROCESS, ["caption", "title"])
    return folder


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of a square that moves to the right."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for step in range(12):
            frame = np.zeros((64, 64, 3), dtype=np.uint8)
            frame[20:40, 4 * step : 4 * step + 16] = (255, 64, 0)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    "settings",
    [
        Model(),
        Model(projection=48, dims=(16, 48), pooling="mean", freeze="backbone"),
        Model(lora=Lora(r=4, vision=True)),
        Model(dtype="bfloat16", lora=Lora(r=4), projection=64, dims=(64,)),
    ],
    ids=["full", "projection", "lora", "bfloat16"],
)
def test_an_opened_model_gives_the_vectors_that_were_saved(tiny_base: Path, tmp_path: Path, settings: Model) -> None:
    encoder, tokenizer = trained(tiny_base, settings)
    expected = torch.nn.functional.normalize(encoder(Batcher(tokenizer, settings, FAMILY)(mixed_entries())), dim=-1)
    save_model(tmp_path / "model", encoder, tokenizer, settings, PREPROCESS, None)
    model = reelnest.load(tmp_path / "model", device="cpu")
    vectors = model.encode(mixed_entries(), batch_size=2)
    tolerance = 0.03 if settings.dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(vectors, expected.detach().numpy(), atol=tolerance)
    assert model.dims == settings.dims
    assert model.width == (settings.projection or 128)
    assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


def test_the_backbone_is_a_folder_that_transformers_opens(saved: Path) -> None:
    model, report = Qwen2_5_VLModel.from_pretrained(saved, output_loading_info=True)
    assert not any(report.values())
    assert model.num_parameters() > 1e6


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads it
def test_an_unmerged_adapter_is_peft_s_and_names_its_base(tiny_base: Path, tmp_path: Path) -> None:
    settings = Model(pooling="last", name_or_path=str(tiny_base), lora=Lora(r=4, merge=False), projection=32, dims=(32,))
    encoder, tokenizer = trained(tiny_base, settings)
    save_model(tmp_path / "model", encoder, tokenizer, settings, PREPROCESS, None)
    assert not (tmp_path / "model" / "model.safetensors").exists()
    expected = torch.nn.functional.normalize(encoder(Batcher(tokenizer, settings, FAMILY)(mixed_entries())), dim=-1).detach()
    np.testing.assert_allclose(reelnest.load(tmp_path / "model", device="cpu").encode(mixed_entries()), expected.numpy(), atol=1e-5)

    base = Qwen2_5_VLModel.from_pretrained(tiny_base)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "model" / "adapter"))
    assert adapted.peft_config["default"].base_model_name_or_path == str(tiny_base.resolve())
    segment = Batcher(tokenizer, settings, FAMILY)([mixed_entries()[0]]).segments[0]
    hidden = adapted(input_ids=segment.input_ids, use_cache=False).last_hidden_state[:, -1]
    assert encoder.projection is not None
    vector = torch.nn.functional.normalize(encoder.projection(hidden), dim=-1)
    torch.testing.assert_close(vector[0].detach(), expected[0], atol=1e-5, rtol=1e-4)


def test_every_dim_is_the_normalised_prefix(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = reelnest.load(saved, device="cpu")
    texts = ["a red circle moves", "a blue square grows"]
    full = model.encode_texts(texts)
    assert full.dtype == np.float32
    assert full.shape == (2, 128)
    for dim in (16, 64, 128):
        prefix = model.encode_texts(texts, dim=dim)
        np.testing.assert_allclose(np.linalg.norm(prefix, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(prefix, full[:, :dim] / np.linalg.norm(full[:, :dim], axis=1, keepdims=True), atol=1e-5)
    assert not caplog.records
    assert model.encode_texts(texts, dim=100).shape == (2, 100)
    assert "dim 100: the model was not trained for it" in caplog.text
    for dim in (0, 129):
        with pytest.raises(ModelError, match="use a dim from 1 to 128"):
            model.encode_texts(texts, dim=dim)
    assert model.encode_texts([]).shape == (0, 128)


def test_a_role_chooses_its_instruction(saved: Path) -> None:
    model = reelnest.load(saved, device="cpu")
    assert model.settings.query_instruction == "Find it."
    query, target = (model.encode_texts(["a red circle"], role=role) for role in ("query", "target"))  # type: ignore[arg-type]  # a parameter of the test
    assert (query @ target.T).item() < 0.999


def test_videos_are_sampled_as_in_training(saved: Path, clip: Path) -> None:
    model = reelnest.load(saved, device="cpu")
    try:
        from_path = model.encode_videos([clip, str(clip)])
        np.testing.assert_allclose(model.encode_videos([clip.read_bytes()])[0], from_path[0], atol=1e-6)
        np.testing.assert_allclose(from_path[0], from_path[1], atol=1e-6)
        frames = model.videos.frames(clip)
        assert frames.grid_thw == (2, 4, 4)  # four frames of 56 x 56, as in PREPROCESS
        np.testing.assert_allclose(model.encode([Entry("target", "", frames)]), from_path[:1], atol=1e-6)

        fields = {"title": "a square", "caption": "it moves", "asr": "left out: not among the fields of training"}
        with_text = model.encode_videos([clip], fields=[fields])
        expected = model.encode([Entry("target", "caption: it moves\ntitle: a square", frames)])
        np.testing.assert_allclose(with_text, expected, atol=1e-6)
        (inputs,) = reelnest.videos_for_sentence_transformers(saved, [clip], [fields])
        assert inputs["text"] == "caption: it moves\ntitle: a square"
        rows, grid = to_patches(inputs["video"]["array"].transpose(0, 2, 3, 1), VISION)
        np.testing.assert_array_equal(rows, frames.rows)
        assert tuple(grid) == frames.grid_thw
        assert 2 / inputs["video"]["video_metadata"]["fps"] == pytest.approx(frames.seconds_per_grid)
        with pytest.raises(VideoError):
            model.encode_videos([b"no video"])
        with pytest.raises(ValueError, match="unknown video fields"):
            model.encode_videos([clip], fields=[{"titel": "x"}])
        with pytest.raises(ValueError, match="2 videos, but fields of 1"):
            model.encode_videos([clip, clip], fields=[{}])
    finally:
        model.close()


def test_the_same_model_is_saved_as_the_same_bytes(tiny_base: Path, saved: Path, tmp_path: Path) -> None:
    settings = Model(query_instruction="Find it.")
    save_model(tmp_path / "again", *trained(tiny_base, settings), settings, PREPROCESS, ["caption", "title"])
    assert contents(tmp_path / "again") == contents(saved)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_saving_replaces_the_folder_and_leaves_nothing_beside_it(tiny_base: Path, damaged: Path) -> None:
    (damaged / "of_the_run_before.txt").touch()
    settings = Model(projection=32, dims=(32,))
    save_model(damaged, *trained(tiny_base, settings), settings, PREPROCESS, None)
    assert not (damaged / "of_the_run_before.txt").exists()
    assert reelnest.load(damaged, device="cpu").width == 32
    assert [path.name for path in damaged.parent.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_model_before_it(tiny_base: Path, damaged: Path) -> None:
    class Unsaveable:
        def save_pretrained(self, _: Path) -> None:
            raise OSError("No space left on device")

    before = reelnest.load(damaged, device="cpu").encode_texts(["a red circle"])
    encoder, _ = trained(tiny_base, Model())
    with pytest.raises(OSError, match="No space"):
        save_model(damaged, encoder, Unsaveable(), Model(), PREPROCESS, None)
    np.testing.assert_array_equal(reelnest.load(damaged, device="cpu").encode_texts(["a red circle"]), before)
    assert [path.name for path in damaged.parent.iterdir()] == ["model"]


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        stored = json.loads((folder / "reelnest.json").read_text(encoding="utf-8"))
        change(stored)
        (folder / "reelnest.json").write_text(json.dumps(stored), encoding="utf-8")

    return apply


def pickled_below(folder: Path) -> None:
    (folder / "pooling").mkdir()
    (folder / "pooling" / "pytorch_model.bin").touch()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def relink(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def name_code(path: Path) -> None:
    """Adds code to a config."""
    replace(path, json.dumps({**json.loads(path.read_bytes()), "auto_map": {"AutoModel": "modeling.Evil"}}).encode())


def replace(path: Path, content: bytes) -> None:
    """Changes a file and updates its checksum, as an attacker would."""
    path.write_bytes(content)
    edit(lambda stored: stored["files"].update({path.name: hashlib.sha256(content).hexdigest()}))(path.parent)


def widen(path: Path) -> None:
    config = json.loads(path.read_bytes())
    config["text_config"]["hidden_size"] *= 2
    replace(path, json.dumps(config).encode())


def lose_a_number(path: Path) -> None:
    weights = load_file(path)
    weights[max(weights)].view(-1)[3] = float("nan")
    replace(path, save(weights, {"format": "pt"}))


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "is missing"),
        (lambda folder: (folder / "reelnest.json").unlink(), "this is not a saved model"),
        (lambda folder: (folder / "reelnest.json").write_text("{", encoding="utf-8"), "not readable as JSON"),
        (lambda folder: (folder / "reelnest.json").write_text('{"dims": 3}', encoding="utf-8"), "this is not a saved model"),
        (edit(lambda stored: stored.update(format_version=99)), "format version 99"),
        (edit(lambda stored: stored["model"].update(pooling="first")), "pooling"),
        (edit(lambda stored: stored.pop("preprocess")), "preprocess"),
        (edit(lambda stored: stored.update(precision="fp8")), "precision is 'fp8'; expected one of 'no', 'bf16', 'fp16'"),
        (edit(lambda stored: stored["model"].update(projection=64, dims=[64])), "projection.model.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: is missing"),
        (lambda folder: (folder / "pytorch_model.bin").touch(), "pytorch_model.bin"),
        (lambda folder: (folder / "extra.pkl").touch(), "extra.pkl"),
        (lambda folder: pickled_below(folder), r"pooling.pytorch_model\.bin: a pickled file"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}", encoding="utf-8"), "adapter_config.json: was not saved with"),
        (lambda folder: (folder / "modeling.py").touch(), "modeling.py: was not saved with the model"),
        (lambda folder: (folder / "notes.md").symlink_to("/etc/passwd"), "notes.md: a link out of"),
        (lambda folder: (folder / "more").symlink_to("/etc"), "more: a link out of"),
        (lambda folder: flip_a_bit(folder / "model.safetensors"), "model.safetensors: differs from the file that was saved"),
        (lambda folder: relink(folder / "tokenizer.json", Path("/etc/passwd")), "tokenizer.json: differs from the file that was saved"),
        (lambda folder: relink(folder / "tokenizer.json", folder / "nowhere"), "tokenizer.json: cannot be read"),
        (lambda folder: name_code(folder / "config.json"), r"config.json: names code to run \(auto_map\)"),
        (edit(lambda stored: stored["files"].pop("tokenizer.json")), "tokenizer.json: was not saved with the model"),
        (edit(lambda stored: stored.pop("files")), "no checksums"),
        (lambda folder: (folder / "reelnest.json").write_text(NESTED, encoding="utf-8"), "not readable as JSON"),
        (lambda folder: replace(folder / "config.json", NESTED.encode()), "config.json: not readable as JSON"),
        (lambda folder: replace(folder / "tokenizer.json", NESTED.encode()), "cannot be opened"),
        (lambda folder: widen(folder / "config.json"), "cannot be opened|wrong shape"),
        (lambda folder: lose_a_number(folder / "model.safetensors"), "is not finite"),
    ],
)
def test_an_incomplete_or_foreign_folder_is_an_error_with_advice(damaged: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(damaged)
    with pytest.raises(ModelError, match=words) as error:
        reelnest.load(damaged, device="cpu")
    assert str(damaged) in str(error.value)


def test_links_to_the_same_bytes_and_notes_do_not_hinder(damaged: Path, tmp_path: Path) -> None:
    expected = reelnest.load(damaged, device="cpu").encode_texts(["a red circle"])
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("model.safetensors", "config.json", "reelnest.json"):  # as DVC links to its cache
        relink(damaged / name, Path(shutil.copy(damaged / name, cache)))
    (damaged / "run.json").write_text("{}", encoding="utf-8")
    (damaged / "README.md").write_text("A model card.", encoding="utf-8")
    np.testing.assert_array_equal(reelnest.load(damaged, device="cpu").encode_texts(["a red circle"]), expected)
