"""The facts of each family's file compared with transformers' model of it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, AutoTokenizer

from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.family import FAMILIES
from reelnest.backbones.loading import load_backbone
from reelnest.backbones.registry import family_of, family_of_config
from reelnest.backbones.tiny import build_tiny
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import Encoder
from reelnest.encoder.unfilled import unfilled_encoder
from reelnest.errors import ModelError
from reelnest.settings import Lora, Model, Tiny
from reelnest.store.entries import Entry, Role
from tests.support.model_inputs import TEXTS, random_video

# Numbers of parameters of the published checkpoints, without a separate language head, which the encoder does not use.
PARAMETERS = {
    "Qwen2-VL-2B": 2_208_985_600,
    "Qwen2-VL-7B": 8_291_375_616 - 152_064 * 3584,
    "Qwen3-VL-2B": 2_127_532_032,
    "Qwen3-VL-4B": 4_437_815_808,
    "Qwen3-VL-8B": 8_767_123_696 - 151_936 * 4096,
    "Qwen3-VL-Embedding-2B": 2_127_532_032,
    "Qwen3-VL-Embedding-8B": 8_144_793_840,
    "Qwen2.5-VL-3B": 3_754_622_976,
    "Qwen2.5-VL-7B": 8_292_166_656 - 152_064 * 3584,
}


SMALL = Tiny(hidden_size=32, layers=1, heads=2, vision_hidden_size=16, vision_layers=2, vision_heads=2, vocabulary=300)


def tiny(name: str, **settings: Any) -> Encoder:
    model = Model(family=name, **settings)
    return unfilled_encoder(model, backbone_config(model))


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_architecture_has_as_many_parameters_as_the_published_files(name: str) -> None:
    config = backbone_config(Model(name_or_path=f"Qwen/{name}-Instruct", revision="0" * 40))
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", FAMILIES.names())
def test_every_published_name_has_its_family_width_and_architecture(name: str) -> None:
    family = FAMILIES[name]
    assert family.published_names
    for published in family.published_names:
        model = Model(name_or_path=f"Qwen/{published}", revision="0" * 40)
        assert family_of(model) is family
        config = backbone_config(model)
        assert config.get_text_config().hidden_size == family.hidden_size_of(model.name_or_path)
        assert family_of_config(config.to_dict(), "config") is family


@pytest.mark.parametrize("name", FAMILIES.names())
def test_layers_are_sharded_one_by_one_and_adapted_completely(name: str) -> None:
    encoder = tiny(name, lora=Lora(r=2, vision=True))
    tower: Any = encoder.vision_tower
    language_model: Any = encoder.language_model
    layers = [*tower.blocks, *language_model.layers]
    assert [module for module in encoder.modules() if type(module).__name__ in encoder.family.wrap_classes] == layers
    adapted = {id(module) for module in encoder.modules() if isinstance(module, LoraLayer)}
    linear = {
        id(module)
        for layer in layers
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear | LoraLayer) and not re.search(r"lora_|base_layer", path)
    }
    assert adapted == linear
    assert len(adapted) == 3 * 7 + len(tower.blocks) * len([m for m in tower.blocks[0].modules() if isinstance(m, LoraLayer)])


@pytest.mark.parametrize("name", FAMILIES.names())
def test_the_vision_spec_is_that_of_the_model(name: str) -> None:
    encoder = tiny(name)
    vision, config = encoder.vision, encoder.backbone.config.vision_config
    assert (vision.patch_size, vision.merge_size) == (config.patch_size, config.spatial_merge_size)
    assert vision.temporal_patch_size == config.temporal_patch_size


def test_an_unknown_model_type_lists_the_known_ones() -> None:
    with pytest.raises(
        ModelError, match=r"x/config.json: model_type is 'llava'; known model types: 'qwen2_5_vl' \(Qwen2\.5-VL\), 'qwen2_vl'"
    ):
        family_of_config({"model_type": "llava"}, "x/config.json")


def test_a_model_type_of_two_families_asks_for_the_setting(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    with pytest.raises(ModelError, match=r"is that of Qwen3-VL or Qwen3-VL-Embedding\. Set model\.family to qwen3_vl or qwen3_vl_em"):
        family_of(Model(name_or_path=str(tmp_path)))
    assert family_of(Model(name_or_path=str(tmp_path), family="qwen3_vl")) is FAMILIES["qwen3_vl"]


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown model family 'llava'; known: qwen2_5_vl, qwen2_vl, qwen3_vl, qwen3_vl_embedding"):
        Model(family="llava")


def test_a_family_that_does_not_fit_the_folder_is_refused(tiny_base: Any) -> None:
    with pytest.raises(ModelError, match=r"model\.family is qwen2_vl, but .*config.json has model_type 'qwen2_5_vl'\. Set model"):
        backbone_config(Model(name_or_path=str(tiny_base), family="qwen2_vl"))


@pytest.mark.parametrize(
    ("role", "text", "has_video", "expected"),
    [
        ("query", "a red circle", False, "{system}Find it?{user}a red circle{end}"),
        ("target", "", False, "{system}Represent the user's input.{user}NULL{end}"),
        ("target", "a star", True, "{system}Represent the user's input.{user}<0.1 seconds>{step}<0.6 seconds>{step}a star{end}"),
    ],
)
def test_an_entry_of_the_embedding_model_has_the_published_layout(role: Role, text: str, has_video: bool, expected: str) -> None:
    family = FAMILIES["qwen3_vl_embedding"]
    tokenizer = family.tiny_tokenizer(TEXTS, 400)
    entry = Entry(role, text, random_video(0, (2, 4, 4), 0.5, family.vision) if has_video else None)
    batch = Batcher(tokenizer, Model(query_instruction="Find it?"), family)([entry])
    assert tokenizer.decode(batch.segments[0].input_ids[0]) == expected.format(
        system="<|im_start|>system\n",
        user="<|im_end|>\n<|im_start|>user\n",
        step="<|vision_start|>" + 4 * "<|video_pad|>" + "<|vision_end|>",
        end="<|im_end|>\n<|im_start|>assistant\n",
    )


@pytest.mark.parametrize("instruction", ["", "Find it.", "Find it?\n"])
@pytest.mark.parametrize("name", FAMILIES.names())
def test_a_text_has_the_tokens_of_the_saved_chat_template(name: str, instruction: str) -> None:
    """Also where the tokenizer knows several line breaks, or a full stop and line breaks, as one token."""
    family = FAMILIES[name]
    tokenizer: Any = family.tiny_tokenizer(
        ["Find it.\n\nfoo", "user\n\nfoo\n\n\nx", "user\n \n a", "it?\n\n b\n\n", "two  spaces"] * 50, 600
    )
    assert len(tokenizer.encode("\n\n")) == 1
    batcher = Batcher(tokenizer, Model(query_instruction=instruction), family)
    for text in (
        "foo",
        " foo",
        "  foo",
        "\nfoo",
        "\n\n\nx",
        "  \n a",
        "\t\r\nfoo",
        "foo\n\n",
        "",
        " ",
        "\n",
        "\n \n",
        "\u3000x",
        "\u0301x",
    ):
        system, content = family.system_message(instruction), [{"type": "text", "text": text}]
        messages: list[dict[str, Any]] = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
        for message in ({"role": "user", "content": content}, {"role": "user", "content": text}):
            rendered = tokenizer.apply_chat_template([*messages, message], chat_template=family.chat_template, tokenize=False)
            row = batcher([Entry("query", text, None)]).segments[0].input_ids[0].tolist()
            assert row == tokenizer.encode(rendered), (text, rendered)


@pytest.mark.parametrize("name", FAMILIES.names())
def test_a_checkpoint_with_a_language_head_opens(name: str, tmp_path: Path) -> None:
    """The published checkpoints have one, and other names of weights."""
    family = FAMILIES[name]
    build_tiny(tmp_path / "base", TEXTS, SMALL, seed=0, family=family)
    base = AutoModel.from_pretrained(tmp_path / "base")
    with_head = AutoModelForImageTextToText.from_config(base.config)
    with_head.model.load_state_dict(base.state_dict())
    with_head.save_pretrained(tmp_path / "head")
    AutoTokenizer.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "head")
    loaded = load_backbone(Model(name_or_path=str(tmp_path / "head"), family=name), tmp_path / "head")
    assert loaded.family is family
    for (path, own), (_, expected) in zip(loaded.model.state_dict().items(), base.state_dict().items(), strict=True):
        assert torch.equal(own, expected), path
