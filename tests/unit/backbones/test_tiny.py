from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.backbones.tiny import build_tiny
from reelnest.settings import Tiny
from tests.support.model_inputs import TEXTS


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_is_a_qwen_of_about_one_and_a_half_million_parameters(tiny_base: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_base)
    assert config.model_type == "qwen2_5_vl"
    assert 1.3e6 < sum(weight.numel() for weight in load_file(tiny_base / "model.safetensors").values()) < 1.7e6
    text = config.text_config
    assert sum(text.rope_parameters["mrope_section"]) == text.hidden_size // text.num_attention_heads // 2


def test_the_same_seed_and_texts_give_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    build_tiny(tmp_path / "again", TEXTS, Tiny(), seed=0)
    build_tiny(tmp_path / "other", TEXTS, Tiny(), seed=1)
    assert contents(tmp_path / "again") == contents(tiny_base)
    assert contents(tmp_path / "other")["model.safetensors"] != contents(tiny_base)["model.safetensors"]


def test_every_weight_matrix_is_drawn_with_the_initializer_range(tmp_path: Path) -> None:
    build_tiny(tmp_path, TEXTS, Tiny(initializer_range=0.2), seed=0)
    matrices = {name: weight for name, weight in load_file(tmp_path / "model.safetensors").items() if weight.ndim > 1}
    assert any(name.startswith("visual") for name in matrices)
    for name, weight in matrices.items():
        assert weight.std().item() == pytest.approx(0.2, rel=0.05), name


def test_building_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build_tiny(tmp_path, TEXTS, Tiny(), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_the_tokenizer_gives_any_text_back_and_has_qwens_special_tokens(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    text = "It's 1234 “ok”,\n漢字 🎬 naïve"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("a red circle moves")["input_ids"]) == 4
    for token in FAMILY.tiny_tokens:
        assert len(tokenizer(token)["input_ids"]) == 1


def test_the_vocabulary_stays_within_its_setting(tmp_path: Path) -> None:
    build_tiny(
        tmp_path,
        [
            f"{a}{b}{c} {c}{b}{a} " * 2
            for a in ("bak", "cel", "dim", "fon")
            for b in ("gup", "har", "jes", "kit")
            for c in ("lov", "mun", "nax")
        ],
        Tiny(vocabulary=300),
        seed=0,
    )
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 300
