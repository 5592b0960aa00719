import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from reelnest.encoder.lora_linear import LinearWithAdapter, _LinearWithAdapter, join_adapters

ADAPTER = "default"


def adapted(*, dropout: float = 0.0, dtype: torch.dtype = torch.float32, bias: bool = True) -> LinearWithAdapter:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40, bias=bias)).requires_grad_(False)
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules=["0"])  # a scaling of 1.5
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    nn.init.normal_(model.get_parameter(f"0.lora_B.{ADAPTER}.weight"))
    join_adapters(model.to(dtype))
    layer = model[0]
    assert isinstance(layer, LinearWithAdapter)
    return layer


def results(layer: LinearWithAdapter, forward: type[Linear], x: Tensor) -> list[Tensor]:
    """Returns the output and the gradients of the input, A and B."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    out = forward.forward(layer, x)
    out.square().mean().backward()
    outputs = [out.detach(), x.grad, *(getattr(layer, name)[ADAPTER].weight.grad for name in ("lora_A", "lora_B"))]
    assert all(isinstance(tensor, Tensor) for tensor in outputs)
    return outputs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24)])
def test_the_joint_product_gives_pefts_output_and_gradients(bias: bool, shape: tuple[int, ...]) -> None:
    layer = adapted(bias=bias)
    x = torch.randn(shape)
    for ours, theirs in zip(results(layer, LinearWithAdapter, x), results(layer, Linear, x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_hold_against_finite_differences() -> None:
    torch.manual_seed(0)

    def random_tensor(*shape: int, trained: bool = False) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=trained)

    weight, bias = random_tensor(4, 5), random_tensor(4)
    inputs = (random_tensor(3, 5, trained=True), random_tensor(2, 5, trained=True), random_tensor(4, 2, trained=True))
    assert torch.autograd.gradcheck(lambda x, a, b: _LinearWithAdapter.apply(x, weight, bias, a, b, 1.5), inputs)


def test_dropout_bfloat16_and_autocast_take_pefts_way() -> None:
    x = torch.randn(6, 24)
    dropping = adapted(dropout=0.5)
    outputs = []
    for forward in (LinearWithAdapter, Linear):
        torch.manual_seed(1)
        outputs.append(results(dropping, forward, x))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*outputs, strict=True))
    half = adapted(dtype=torch.bfloat16)
    assert torch.equal(half(x.bfloat16()), Linear.forward(half, x.bfloat16()))
    plain = adapted()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(x), Linear.forward(plain, x))


def test_a_disabled_adapter_changes_nothing() -> None:
    layer = adapted()
    layer.enable_adapters(False)
    x = torch.randn(6, 24)
    assert torch.equal(layer(x), layer.base_layer(x))
