"""FlashAttention is chosen by the device and the dtype that the model computes in."""

import pytest
import torch

from reelnest.backbones import attention
from reelnest.backbones.attention import choose_attention
from reelnest.errors import ModelError

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)


@pytest.mark.parametrize(
    ("device", "compute_dtype", "expected"),
    [
        (GPU, torch.bfloat16, "flash_attention_2"),
        (GPU, torch.float16, "flash_attention_2"),
        (GPU, torch.float32, "sdpa"),
        (CPU, torch.bfloat16, "sdpa"),
    ],
)
def test_auto_takes_flash_attention_where_it_can_run(device: torch.device, compute_dtype: torch.dtype, expected: str) -> None:
    assert choose_attention("auto", device, compute_dtype) == expected


@pytest.mark.parametrize(
    ("device", "compute_dtype", "reason"),
    [(CPU, torch.bfloat16, "the model is not on a GPU"), (GPU, torch.float32, r"it needs train\.mixed_precision bf16 or fp16")],
)
def test_where_it_cannot_it_is_refused_with_the_reason(device: torch.device, compute_dtype: torch.dtype, reason: str) -> None:
    with pytest.raises(ModelError, match=f"model.attention: flash_attention_2 cannot run here: {reason}"):
        choose_attention("flash_attention_2", device, compute_dtype)
