"""Chooses and groups the attention calls of a model.

Without FlashAttention, transformers' vision tower calls the attention once for each window and frame: 256 calls per layer for 64 clips of
four steps. Frames and windows have few distinct lengths, so this module makes one call for all sequences of one length. The results are
the same. The language model reads all rows of a batch as one sequence (see backbones/packing.py), and its attention groups rows of similar
length.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from reelnest.backbones.packing import Packing
from reelnest.backbones.positions import group_by_length
from reelnest.errors import ModelError

GROUPED = "reelnest_flash_like_sdpa"
"""transformers passes sequence boundaries only to implementations with "flash" in the name. This one uses them, and runs plain SDPA."""

PACKED = "reelnest_packed_sdpa"
"""transformers builds no mask for an implementation that it does not know. This one needs no mask."""

Attention = Literal["flash_attention_2", "sdpa", "eager"]


def choose_attention(setting: str, dtype: str) -> Attention:
    """Returns FlashAttention 2 for `auto` if it can run, else SDPA. Raises ModelError if FlashAttention 2 is set and cannot run."""
    obstacle = _obstacle_to_flash(dtype)
    if setting == "auto":
        return "sdpa" if obstacle else "flash_attention_2"
    if setting == "flash_attention_2" and obstacle:
        raise ModelError(f"model.attention: flash_attention_2 cannot run here: {obstacle}. Use auto or sdpa.")
    return setting  # type: ignore[return-value]  # the settings allow no other value


def _obstacle_to_flash(dtype: str) -> str | None:
    if not torch.cuda.is_available():
        return "this machine has no GPU"
    if not is_flash_attn_2_available():
        return "the package flash-attn is not installed"
    if dtype != "bfloat16":
        return f"it needs model.dtype bfloat16, not {dtype}"
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
    """Attention within each sequence; returns (1, tokens, heads, head). `cu_seq_lens_q`, on the CPU, holds the sequence boundaries."""
    ends = tuple(cu_seq_lens_q.tolist())
    heads, tokens, width = query.shape[1:]
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
    """Causal attention within each packed row; returns (1, tokens, heads, head)."""
    heads, width = query.shape[1], query.shape[3]
    # Tokens first, so that one index selects a group's rows: (tokens, heads, head)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    outputs = []
    for places in packing.groups:  # (rows, longest)
        row_q, row_k, row_v = (tensor[places].transpose(1, 2) for tensor in (q, k, v))
        shares = row_k.shape[1] < heads
        out = F.scaled_dot_product_attention(row_q, row_k, row_v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shares)
        outputs.append(out.transpose(1, 2).reshape(-1, heads, width))
    return torch.cat(outputs)[packing.inverse][None], None


AttentionInterface.register(GROUPED, grouped_sdpa)
AttentionInterface.register(PACKED, packed_sdpa)
