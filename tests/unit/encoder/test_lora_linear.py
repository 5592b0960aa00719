from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("weights", "autocast"), [("bfloat16", False), ("bfloat16", True), ("float32", True)])
def test_in_bfloat16_output_and_gradients_are_pefts_but_for_rounding(weights: str, autocast: bool, bias: bool) -> None:
    exact = adapted(bias=bias)
    x = torch.randn(3, 50, 24)
    expected = results(exact, Linear, x)
    half = adapted(bias=bias)
    half.base_layer.to(getattr(torch, weights))
    if not autocast:
        half.to(torch.bfloat16)
    inputs = x if weights == "float32" else x.bfloat16()
    for forward in (LinearWithAdapter, Linear):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = results(half, forward, inputs)
        assert found[0].dtype == torch.bfloat16
        for ours, exactly in zip(found, expected, strict=True):
            assert (ours.float() - exactly).norm() <= 0.01 * exactly.norm()
        if autocast:
            assert found[2].dtype == found[3].dtype == torch.float32


def test_half_precision_needs_no_float32_copy_of_the_input() -> None:
    half = adapted()
    half.base_layer.to(torch.bfloat16)
    shapes = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default:
                shapes.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    x = torch.randn(50, 24, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = half(x)
    with Casts():
        out.sum().backward()
        with torch.autocast("cpu", torch.bfloat16):
            half(x)
    assert shapes
    assert all(50 not in shape for shape in shapes)


def test_dropout_takes_pefts_way() -> None:
    x = torch.randn(6, 24)
    dropping = adapted(dropout=0.5)
    outputs = []
    for forward in (LinearWithAdapter, Linear):
        torch.manual_seed(1)
        outputs.append(results(dropping, forward, x))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*outputs, strict=True))


def test_a_disabled_adapter_changes_nothing() -> None:
    layer = adapted()
    layer.enable_adapters(False)
    x = torch.randn(6, 24)
    assert torch.equal(layer(x), layer.base_layer(x))
