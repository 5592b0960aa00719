"""Attention over packed rows compared with attention over each row."""

import numpy as np
import pytest
import torch
from torch import nn

from reelnest.backbones.attention import packed_sdpa
from reelnest.backbones.packing import Packing


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_packed_rows_attend_to_themselves_alone_with_fewer_key_heads_too(key_heads: int) -> None:
    torch.manual_seed(0)
    lengths = [5, 1, 12, 6, 30]
    masks = [np.ones((1, length), dtype=np.int64) for length in lengths]
    packing = Packing.of(masks, masks)
    query = torch.randn(1, 4, sum(lengths), 8, requires_grad=True)
    key, value = (torch.randn(1, key_heads, sum(lengths), 8, requires_grad=True) for _ in range(2))
    actual, _ = packed_sdpa(nn.Module(), query, key, value, None, 0.3, packing=packing)
    rows = []
    for q, k, v in zip(*(tensor[0].split(lengths, dim=1) for tensor in (query, key, value)), strict=True):
        k, v = (tensor.repeat_interleave(4 // key_heads, dim=0) for tensor in (k, v))
        scores = (q @ k.mT * 0.3).masked_fill(torch.ones(len(q[0]), len(q[0])).triu(1).bool(), -torch.inf)
        rows.append((scores.softmax(-1) @ v).transpose(0, 1))
    expected = torch.cat(rows)[None]  # (1, tokens, heads, head)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    for gradient, expected_gradient in zip(
        *(torch.autograd.grad((out * weights).sum(), (query, key, value)) for out in (actual, expected)), strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)
