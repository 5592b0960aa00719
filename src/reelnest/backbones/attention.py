"""Which attention runs where.

Outside FlashAttention, transformers' vision tower calls the attention once for each window and frame: 256 calls a layer for 64 clips of
four steps. Frames and windows come in few lengths, so here each length is one call on all sequences that have it. The results are the same.
The language model gets all rows of a batch as one sequence (see backbones/packing.py), and its attention takes rows of like length
together.
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
"""transformers hands the ends of the sequences only to attentions with "flash" in their names; this one takes them, and is plain SDPA."""

PACKED = "reelnest_packed_sdpa"
"""transformers makes no mask for an attention that it has no mask for; this one needs none."""

Attention = Literal["flash_attention_2", "sdpa", "eager"]


def choose_attention(asked: str, dtype: str) -> Attention:
    """`auto`: FlashAttention 2 where it can run, else SDPA. Raises ModelError where FlashAttention 2 is asked for and cannot run."""
    lacking = _lacking_for_flash(dtype)
    if asked == "auto":
        return "sdpa" if lacking else "flash_attention_2"
    if asked == "flash_attention_2" and lacking:
        raise ModelError(f"model.attention: flash_attention_2 cannot run here: {lacking}. Use auto or sdpa.")
    return asked  # type: ignore[return-value]  # the settings allow no other word


def _lacking_for_flash(dtype: str) -> str | None:
    if not torch.cuda.is_available():
        return "there is no GPU"
    if not is_flash_attn_2_available():
        return "the package flash-attn is not installed"
    if dtype != "bfloat16":
        return f"it needs model.dtype bfloat16, found {dtype}"
    return None


def group_vision_attention(visual: PreTrainedModel) -> None:
    """Makes the vision tower call SDPA once for each length of sequence. For towers that would otherwise run `sdpa`."""
    visual.config._attn_implementation = GROUPED


def grouped_sdpa(
    module: nn.Module,  # noqa: ARG001 (the interface's first argument)
    query: Tensor,  # (1, heads, tokens, head)
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 (sequences are apart by their ends)
    scaling: float,
    dropout: float = 0.0,
    *,
    cu_seq_lens_q: Tensor,
    **_others: Any,
) -> tuple[Tensor, None]:
    """Attention inside each of the sequences that `cu_seq_lens_q` (on the CPU) ends; gives (1, tokens, heads, head)."""
    ends = tuple(cu_seq_lens_q.tolist())
    heads, tokens, width = query.shape[1:]
    groups, back = group_by_length(ends)
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
    return torch.cat(outputs)[back.to(query.device, non_blocking=True)][None], None


def pack_text_attention(language_model: PreTrainedModel) -> None:
    """Makes the language model take packed rows. For models that would otherwise run `sdpa`; other kinds of attention can already."""
    language_model.config._attn_implementation = PACKED


def packed_arguments(language_model: PreTrainedModel, packing: Packing) -> dict[str, Any]:
    """What tells the language model's attention which of the packed tokens belong together."""
    kind = language_model.config._attn_implementation
    if kind == PACKED:
        return {"packing": packing}
    if kind == "flash_attention_2":
        rows = {"cu_seq_lens_q": packing.ends, "cu_seq_lens_k": packing.ends}
        return rows | {"max_length_q": packing.longest, "max_length_k": packing.longest}
    # Every token's row as a number, and a mask over all pairs of tokens: what eager attention is there for is looking into small batches.
    row = torch.bucketize(torch.arange(len(packing.tokens), device=packing.ends.device), packing.ends[1:], right=True)
    allowed = (row[:, None] == row).tril()
    lowest = torch.finfo(language_model.dtype).min
    return {"attention_mask": torch.zeros_like(allowed, dtype=language_model.dtype).masked_fill(~allowed, lowest)[None, None]}


def packed_sdpa(
    module: nn.Module,  # noqa: ARG001 (the interface's first argument)
    query: Tensor,  # (1, heads, tokens, head)
    key: Tensor,  # (1, key heads, tokens, head)
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 (rows are apart by the packing)
    scaling: float,
    dropout: float = 0.0,
    *,
    packing: Packing,
    **_others: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each packed row; gives (1, tokens, heads, head)."""
    heads, width = query.shape[1], query.shape[3]
    # Tokens first, so that a group's rows are taken by one index: (tokens, heads, head)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    outputs = []
    for places in packing.groups:  # (rows, longest)
        row_q, row_k, row_v = (tensor[places].transpose(1, 2) for tensor in (q, k, v))
        shares = row_k.shape[1] < heads
        out = F.scaled_dot_product_attention(row_q, row_k, row_v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shares)
        outputs.append(out.transpose(1, 2).reshape(-1, heads, width))
    return torch.cat(outputs)[packing.back][None], None


AttentionInterface.register(GROUPED, grouped_sdpa)
AttentionInterface.register(PACKED, packed_sdpa)
