from pathlib import Path

import torch

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import Encoder, load_encoder
from reelnest.encoder.lora import adapter_state, load_adapter_state, merged_state
from reelnest.settings import Lora, Model
from tests.support.model_inputs import mixed_entries


def adapted(base: Path, lora: Lora) -> tuple[Encoder, Batcher]:
    settings = Model(pooling="last", lora=lora)
    encoder, tokenizer = load_encoder(settings, base, training=True)
    return encoder.eval(), Batcher(tokenizer, settings, FAMILY)


def disturb(encoder: Encoder) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)


def test_new_adapters_change_nothing(tiny_base: Path) -> None:
    encoder, batcher = adapted(tiny_base, Lora())
    plain, _ = load_encoder(Model(pooling="last"), tiny_base, training=False)
    batch = batcher(mixed_entries())
    torch.testing.assert_close(encoder(batch), plain(batch))


def test_only_adapters_train_and_the_setting_adds_them_to_the_vision_tower(tiny_base: Path) -> None:
    for vision in (False, True):
        encoder, batcher = adapted(tiny_base, Lora(vision=vision))
        encoder(batcher(mixed_entries())).square().sum().backward()
        trained = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
        assert trained == {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
        assert all("lora_" in name for name in trained)
        language = {name for name in trained if "language_model.layers" in name}
        assert len(language) == 3 * 7 * 2  # layers x projections x (A, B)
        towers = {name for name in trained if "visual.blocks" in name}
        assert len(towers) == (3 * 5 * 2 if vision else 0)
        assert trained == language | towers


def test_merged_weights_give_the_adapters_vectors_and_leave_them_alone(tiny_base: Path) -> None:
    encoder, batcher = adapted(tiny_base, Lora(r=4, alpha=6.0, vision=True))
    disturb(encoder)
    batch = batcher(mixed_entries())
    before = encoder(batch)
    plain, _ = load_encoder(Model(pooling="last"), tiny_base, training=False)
    assert torch.cosine_similarity(before, plain(batch)).max() < 0.99
    plain.backbone.load_state_dict(merged_state(encoder.backbone, encoder.backbone.state_dict()))
    torch.testing.assert_close(plain(batch), before, atol=1e-4, rtol=1e-3)
    assert torch.equal(encoder(batch), before)


def test_adapters_of_a_bfloat16_base_stay_float32(tiny_base: Path) -> None:
    encoder, _ = load_encoder(Model(dtype="bfloat16", lora=Lora()), tiny_base, training=True)
    assert {parameter.dtype for parameter in encoder.parameters() if parameter.requires_grad} == {torch.float32}


def test_adapter_files_that_do_not_fit_are_noticed(tiny_base: Path) -> None:
    encoder, _ = adapted(tiny_base, Lora())
    tensors = adapter_state(encoder.backbone.state_dict())
    assert load_adapter_state(encoder.backbone, tensors) == []
    name = next(iter(tensors))
    del tensors[name]
    assert load_adapter_state(encoder.backbone, tensors) == [name]
