"""torch's attention for rows of different lengths runs on GPUs only. Here, one of our own takes its place."""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reelnest.backbones import attention
from reelnest.backbones.attention import grouped_sdpa, packed_sdpa, row_kernel
from reelnest.backbones.packing import Packing

LENGTHS = [5, 1, 12, 6, 30]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def half_precision_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attention, "ROW_KERNEL_DTYPES", {"cpu": (torch.float32,)})
    forget()
    yield
    forget()


def forget() -> None:
    row_kernel.cache_clear()
    attention._varlen_options.cache_clear()


class Varlen:
    """torch's function, row by row in plain attention, as torch 2.11 has it."""

    def __init__(self, *, shares_keys: bool, wrong: bool = False) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self._shares_keys, self._wrong = shares_keys, wrong

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, **options: Any
    ) -> Tensor:
        assert cu_seq_k is cu_seq_q
        assert max_k == max_q
        window, shares = options["window_size"], key.shape[1] < query.shape[1]
        assert window in ((-1, 0), (-1, -1))
        assert cu_seq_q.dtype == torch.int32
        assert max_q == int(cu_seq_q.diff().max())
        if shares and not self._shares_keys:
            raise RuntimeError("Number of heads in key/value must divide number of heads in query")
        self.calls.append((len(query), query.shape[1], key.shape[1]))
        rows = []
        for start, end in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
            q, k, v = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
            causal = window == (-1, 0) and not self._wrong
            out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=options["scale"], enable_gqa=shares)
            rows.append(out[0].transpose(0, 1))
        return torch.cat(rows)


def packed(key_heads: int, *, use_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Returns the output and the gradients of packed rows."""
    torch.manual_seed(0)
    masks = [np.ones((1, length), dtype=np.int64) for length in LENGTHS]
    packing = Packing.of(masks, masks)
    inputs = [torch.randn(1, heads, sum(LENGTHS), 8, requires_grad=True) for heads in (4, key_heads, key_heads)]
    with monkeypatch.context() as patch:
        if not use_kernel:
            patch.setattr(attention, "row_kernel", lambda *_: None)
        out, _ = packed_sdpa(nn.Module(), *inputs, None, 0.3, packing=packing)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), inputs)]


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("shares_keys", [True, False])
def test_packed_rows_give_the_same_without_groups(key_heads: int, shares_keys: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    varlen = Varlen(shares_keys=shares_keys)
    monkeypatch.setattr(attention, "varlen_attn", varlen)
    actual = packed(key_heads, use_kernel=True, monkeypatch=monkeypatch)
    assert varlen.calls[-1] == (sum(LENGTHS), 4, key_heads if shares_keys else 4)
    for ours, expected in zip(actual, packed(key_heads, use_kernel=False, monkeypatch=monkeypatch), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [4, 9, 4, 1]])
def test_frames_and_windows_give_the_same_without_groups(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    query, key, value = (torch.randn(1, 2, sum(lengths), 8) for _ in range(3))
    expected, _ = grouped_sdpa(nn.Module(), query, key, value, None, 0.3, cu_seq_lens_q=ends)
    varlen = Varlen(shares_keys=True)
    monkeypatch.setattr(attention, "varlen_attn", varlen)
    forget()
    actual, _ = grouped_sdpa(nn.Module(), query, key, value, None, 0.3, cu_seq_lens_q=ends)
    assert varlen.calls[-1] == (sum(lengths), 2, 2)
    torch.testing.assert_close(actual, expected)


def test_a_kernel_that_does_not_run_or_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert row_kernel(CPU, torch.float32, 4, 4, 8) is None  # torch's own, on a CPU
    forget()
    monkeypatch.setattr(attention, "varlen_attn", Varlen(shares_keys=True, wrong=True))
    assert row_kernel(CPU, torch.float32, 4, 4, 8) is None
    assert row_kernel(CPU, torch.bfloat16, 4, 4, 8) is None  # a dtype without a kernel


def test_trying_a_kernel_changes_neither_random_numbers_nor_a_checkpointed_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "varlen_attn", Varlen(shares_keys=True))
    state = torch.get_rng_state()

    def attended(query: Tensor) -> Tensor:
        kernel = row_kernel(CPU, torch.float32, 4, 4, 8)
        assert kernel is not None
        return kernel(query, query, query, torch.tensor([0, 7], dtype=torch.int32), 7, causal=True, scale=0.3)

    query = torch.ones(7, 4, 8, requires_grad=True)
    torch.utils.checkpoint.checkpoint(attended, query, use_reentrant=False).sum().backward()
    assert query.grad is not None
    assert torch.equal(torch.get_rng_state(), state)


def test_torchs_function_has_the_arguments_that_it_is_called_with() -> None:
    from torch.nn.attention.varlen import varlen_attn

    names = list(inspect.signature(varlen_attn).parameters)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert {"scale", "window_size"} <= set(names)
