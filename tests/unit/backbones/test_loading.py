import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import load_encoder
from reelnest.errors import ModelError
from reelnest.settings import Lora, Model
from tests.support.model_inputs import mixed_entries


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def assert_refused(base: Path, *words: str, settings: Model | None = None) -> None:
    with pytest.raises(ModelError) as error:
        load_encoder(settings or Model(), base, training=False)
    for word in words:
        assert word in str(error.value)


def test_a_folder_without_weights_is_refused(base: Path) -> None:
    (base / "model.safetensors").unlink()
    assert_refused(base, str(base), "no weights", "Copy the folder again")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pkl", "weights.pt"])
def test_pickled_weights_are_refused_unopened(base: Path, name: str) -> None:
    (base / name).write_bytes(b"not even a pickle")
    assert_refused(base, name, "safetensors")


def test_missing_weights_are_refused_and_not_drawn_at_random(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    del weights["language_model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert_refused(base, "1 weights are missing", "layers.1.mlp.up_proj.weight")


def test_a_cut_off_weights_file_is_refused(base: Path) -> None:
    data = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert_refused(base, str(base), "cannot be opened")


def test_another_architecture_is_refused(base: Path) -> None:
    (base / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    assert_refused(base, "'bert'", "qwen2_5_vl")


def test_a_folder_without_a_config_or_with_a_broken_one_is_refused(base: Path) -> None:
    (base / "config.json").write_text('{"model_type": ', encoding="utf-8")
    assert_refused(base, "config.json", "not readable")
    (base / "config.json").unlink()
    assert_refused(base, "no config.json")


def test_a_tokenizer_of_another_checkpoint_is_refused(base: Path) -> None:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["video_token_id"] += 1
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_refused(base, "different ids", "<|video_pad|>")


def test_settings_that_need_a_gpu_are_errors_without_one(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(
        tiny_base, "load_in_4bit needs a GPU", settings=Model(name_or_path=str(tiny_base), load_in_4bit=True, lora=Lora(merge=False))
    )
    assert_refused(tiny_base, "flash_attention_2 cannot run here: the model is not on a GPU", settings=Model(attention="flash_attention_2"))


@pytest.mark.parametrize("layout", ["hub", "transformers 5"])
def test_a_conditional_generation_checkpoint_loads_completely(base: Path, layout: str) -> None:
    generator = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(base))
    generator.model.load_state_dict(load_file(base / "model.safetensors"))
    if layout == "hub":
        # The names that the published safetensors files have, such as Qwen/Qwen2.5-VL-3B-Instruct's.
        state = {
            name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): weight.contiguous()
            for name, weight in generator.state_dict().items()
        }
        assert {"visual.patch_embed.proj.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"} <= set(state)
        save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    else:
        generator.save_pretrained(base, save_original_format=False)
        assert "model.language_model.layers.0.mlp.up_proj.weight" in load_file(base / "model.safetensors")
    encoder, tokenizer = load_encoder(Model(pooling="last"), base, training=False)
    batch = Batcher(tokenizer, Model(pooling="last"), FAMILY)(mixed_entries())
    generator.model.set_attn_implementation("sdpa")
    segment = batch.segments[0]
    hidden = generator.model(input_ids=segment.input_ids[1:], use_cache=False).last_hidden_state
    torch.testing.assert_close(encoder(batch)[2], hidden[0, -1].detach(), atol=2e-5, rtol=1e-4)
