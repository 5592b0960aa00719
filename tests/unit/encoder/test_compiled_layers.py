"""Compiled MLPs and norms compute what the plain ones do."""

from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder import encoder as module
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import Encoder, load_encoder
from reelnest.errors import ModelError
from reelnest.settings import Lora, Model
from tests.support.model_inputs import mixed_entries


def encoder_of(base: Path, settings: Model) -> tuple[Encoder, Batcher]:
    torch.manual_seed(0)
    encoder, tokenizer = load_encoder(settings, base, training=True)
    return encoder, Batcher(tokenizer, settings, FAMILY)


# torch's compiler reads gradients that do not exist, and instantiates a Function class.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("lora", [None, Lora(r=4)], ids=["all trained", "LoRA"])
def test_vectors_and_gradients_stay_and_batches_of_other_sizes_need_no_new_code(tiny_base: Path, lora: Lora | None) -> None:
    settings = Model(lora=lora)
    plain, batcher = encoder_of(tiny_base, settings)
    compiled, _ = encoder_of(tiny_base, settings)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled.compile_layers(counter)
    compiled_frames = 0
    for entries in (mixed_entries(), mixed_entries()[:3], mixed_entries()[1:2]):
        batch = batcher(entries)
        expected, actual = plain(batch), compiled(batch)
        torch.testing.assert_close(actual, expected)
        expected.square().sum().backward()
        actual.square().sum().backward()
        compiled_frames = compiled_frames or counter.frame_count
    assert counter.frame_count == compiled_frames
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.requires_grad}
    for name, parameter in compiled.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-4)
    assert compiled.trainable_state().keys() == plain.trainable_state().keys()


def test_without_a_compiler_the_setting_is_named(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = encoder_of(tiny_base, Model())
    monkeypatch.setattr(module, "which", lambda _name: None)
    with pytest.raises(ModelError, match=r"train\.compile needs the C\+\+ compiler g\+\+ on a CPU"):
        encoder.compile_layers()
