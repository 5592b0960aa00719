"""Chooses and groups the attention calls of a model.

Without FlashAttention, transformers' vision tower calls the attention once for each window and frame: 256 calls per layer for 64 clips of
four steps. Frames and windows have few distinct lengths, so this module makes one call for all sequences of one length. The results are
the same. The language model reads all rows of a batch as one sequence (see backbones/packing.py), and its attention groups rows of similar
length.

On a GPU and in half precision, both use torch's kernel for sequences of different lengths instead: it needs no groups and no padding.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from inspect import signature
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from reelnest.backbones.packing import Packing
from reelnest.backbones.positions import group_by_length
from reelnest.errors import ModelError

GROUPED = "reelnest_flash_like_sdpa"
"""transformers passes sequence boundaries only to implementations with "flash" in the name. This one uses them, and runs plain SDPA."""

PACKED = "reelnest_packed_sdpa"
"""transformers builds no mask for an implementation that it does not know. This one needs no mask."""

RowKernel = Callable[..., Tensor]
"""Attention within rows: of queries (tokens, heads, head), keys, values, ends, the longest row, `causal` and `scale`."""
ROW_KERNEL_DTYPES: dict[str, tuple[torch.dtype, ...]] = {"cuda": (torch.bfloat16, torch.float16)}
ROW_KERNEL_ERROR = 0.03
"""Allowed difference from float32, relative to the length. The kernel's own is 0.005 in bfloat16."""

log = logging.getLogger(__name__)

Attention = Literal["flash_attention_2", "sdpa", "eager"]


def choose_attention(setting: str, device: torch.device, compute_dtype: torch.dtype) -> Attention:
    """Returns FlashAttention 2 for `auto` if it can run on `device`, else SDPA. Raises ModelError if it is set and cannot run.

    `compute_dtype` is the dtype of matrix products: autocast's, or that of the weights.
    """
    obstacle = _obstacle_to_flash(device, compute_dtype)
    if setting == "auto":
        return "sdpa" if obstacle else "flash_attention_2"
    if setting == "flash_attention_2" and obstacle:
        raise ModelError(f"model.attention: flash_attention_2 cannot run here: {obstacle}. Use auto or sdpa.")
    return setting  # type: ignore[return-value]  # the settings allow no other value


def _obstacle_to_flash(device: torch.device, compute_dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return "the model is not on a GPU"
    if not is_flash_attn_2_available():
        return "the package flash-attn is not installed"
    if compute_dtype not in (torch.bfloat16, torch.float16):
        return "it needs train.mixed_precision bf16 or fp16, or model.dtype bfloat16"
    return None


def group_vision_attention(visual: PreTrainedModel) -> None:
    """Makes a vision tower that runs `sdpa` call it once for each sequence length."""
    visual.config._attn_implementation = GROUPED


def grouped_sdpa(
    module: nn.Module,  # noqa: ARG001 (the interface's first argument)
    query: Tensor,  # (1, heads, tokens, head)
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 (`cu_seq_lens_q` separates the sequences)
    scaling: float,
    dropout: float = 0.0,
    *,
    cu_seq_lens_q: Tensor,
    **_others: Any,
) -> tuple[Tensor, None]:
    """Computes attention within each sequence, (1, tokens, heads, head). `cu_seq_lens_q`, on the CPU, holds the sequence boundaries."""
    ends = tuple(cu_seq_lens_q.tolist())
    heads, tokens, width = query.shape[1:]
    if not dropout and (kernel := row_kernel(query.device, query.dtype, heads, heads, width)) is not None:
        longest = max(end - start for start, end in pairwise(ends))
        rows = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (tokens, heads, head)
        return kernel(*rows, _ends_on(ends, query.device), longest, causal=False, scale=scaling)[None], None
    groups, inverse = group_by_length(ends)
    if len(groups) == 1:
        length = groups[0].shape[1]
        # (heads, tokens, head) → (sequences, heads, length, head), without a copy
        q, k, v = (tensor[0].unflatten(1, (-1, length)).transpose(0, 1) for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        return out.transpose(1, 2).reshape(1, tokens, heads, width), None
    outputs = []
    for where in groups:
        index = where.to(query.device, non_blocking=True)  # (sequences, length)
        q, k, v = (tensor[0, :, index].transpose(0, 1) for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        outputs.append(out.transpose(1, 2).reshape(-1, heads, width))
    return torch.cat(outputs)[inverse.to(query.device, non_blocking=True)][None], None


def pack_text_attention(language_model: PreTrainedModel) -> None:
    """Makes a language model that runs `sdpa` read packed rows. Other kinds of attention read them already."""
    language_model.config._attn_implementation = PACKED


def packed_arguments(language_model: PreTrainedModel, packing: Packing) -> dict[str, Any]:
    """Returns the arguments that give the language model's attention the boundaries of the packed rows."""
    kind = language_model.config._attn_implementation
    if kind == PACKED:
        return {"packing": packing}
    if kind == "flash_attention_2":
        rows = {"cu_seq_lens_q": packing.ends, "cu_seq_lens_k": packing.ends}
        return rows | {"max_length_q": packing.longest, "max_length_k": packing.longest}
    # Eager attention gets a mask over all pairs of tokens: it serves to inspect small batches.
    row = torch.bucketize(torch.arange(len(packing.tokens), device=packing.ends.device), packing.ends[1:], right=True)
    allowed = (row[:, None] == row).tril()
    lowest = torch.finfo(language_model.dtype).min
    return {"attention_mask": torch.zeros_like(allowed, dtype=language_model.dtype).masked_fill(~allowed, lowest)[None, None]}


def packed_sdpa(
    module: nn.Module,  # noqa: ARG001 (the interface's first argument)
    query: Tensor,  # (1, heads, tokens, head)
    key: Tensor,  # (1, key heads, tokens, head)
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 (the packing separates the rows)
    scaling: float,
    dropout: float = 0.0,
    *,
    packing: Packing,
    **_others: Any,
) -> tuple[Tensor, None]:
    """Computes causal attention within each packed row, (1, tokens, heads, head)."""
    heads, width = query.shape[1], query.shape[3]
    # Tokens first, so that one index selects a group's rows: (tokens, heads, head)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if not dropout and (kernel := row_kernel(query.device, query.dtype, heads, key.shape[1], width)) is not None:
        return kernel(q, k, v, packing.ends, packing.longest, causal=True, scale=scaling)[None], None
    outputs = []
    for places in packing.groups:  # (rows, longest)
        row_q, row_k, row_v = (tensor[places].transpose(1, 2) for tensor in (q, k, v))
        shares = row_k.shape[1] < heads
        out = F.scaled_dot_product_attention(row_q, row_k, row_v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shares)
        outputs.append(out.transpose(1, 2).reshape(-1, heads, width))
    return torch.cat(outputs)[packing.inverse][None], None


@cache
def row_kernel(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int) -> RowKernel | None:
    """Returns torch's attention for rows of different lengths; None if it cannot run here, or does not give what plain attention gives.

    The first call for these sizes tries it, in a thread of its own: a module that is being checkpointed counts the tensors that autograd
    saves in this thread.
    """
    if dtype not in ROW_KERNEL_DTYPES.get(device.type, ()):
        return None
    kernels: list[RowKernel] = [_varlen]
    if key_heads < heads:
        kernels.append(_repeating_keys)
    for kernel in kernels:
        with ThreadPoolExecutor(1) as thread:
            obstacle = thread.submit(_obstacle_to_rows, kernel, device, dtype, (heads, key_heads, width)).result()
        if obstacle is None:
            return kernel
    log.warning("attention: torch's kernel for rows of different lengths cannot be used, so that rows are padded: %s", obstacle)
    return None


def _varlen(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, *, causal: bool, scale: float) -> Tensor:
    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0 if causal else -1)}
    if k.shape[1] < q.shape[1] and "enable_gqa" in _varlen_options():
        options["enable_gqa"] = True
    out: Any = varlen_attn(q, k, v, ends, ends, longest, longest, **options)
    return cast("Tensor", out)


def _repeating_keys(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, *, causal: bool, scale: float) -> Tensor:
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    return _varlen(q, k, v, ends, longest, causal=causal, scale=scale)


@cache
def _varlen_options() -> frozenset[str]:
    return frozenset(signature(varlen_attn).parameters)


def _obstacle_to_rows(kernel: RowKernel, device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int]) -> str | None:
    """Compares a kernel with plain attention, forward and backward, and returns why it cannot be used."""
    heads, key_heads, width = sizes
    lengths = (5, 1, 70)
    ends = torch.tensor([0, 5, 6, 76], dtype=torch.int32, device=device)

    def numbers(count: int, first: float) -> Tensor:  # not random: the caller's random state must not change
        values = torch.sin(first + torch.arange(count * sum(lengths) * width, device=device, dtype=torch.float32) * 0.7)
        return values.view(count, -1, width).to(dtype).transpose(0, 1).requires_grad_()  # (tokens, heads, head)

    for causal in (True, False):
        inputs = q, k, v = numbers(heads, 0), numbers(key_heads, 1), numbers(key_heads, 2)
        try:
            out = kernel(q, k, v, ends, max(lengths), causal=causal, scale=width**-0.5)
            gradients = torch.autograd.grad(out.float().square().sum(), inputs)
        except (RuntimeError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}".partition("\n")[0]
        exact = tuple(tensor.detach().float().requires_grad_() for tensor in inputs)
        rows = zip(*(tensor.split(lengths) for tensor in exact), strict=True)
        expected = torch.cat([_plain(*row, causal=causal) for row in rows])
        pairs = zip((out, *gradients), (expected, *torch.autograd.grad(expected.square().sum(), exact)), strict=True)
        with torch.no_grad():
            error_share = max(float((ours.float() - theirs).norm() / theirs.norm().clamp_min(1e-9)) for ours, theirs in pairs)
        if not error_share <= ROW_KERNEL_ERROR:
            return f"it differs from plain attention by {error_share:.2g}"
    return None


def _plain(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Computes attention within one row, (tokens, heads, head)."""
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=k.shape[1] < q.shape[1])[0].transpose(0, 1)


@lru_cache(maxsize=256)
def _ends_on(ends: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(ends, dtype=torch.int32).to(device, non_blocking=True)


AttentionInterface.register(GROUPED, grouped_sdpa)
AttentionInterface.register(PACKED, packed_sdpa)
