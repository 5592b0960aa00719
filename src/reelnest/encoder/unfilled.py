"""An encoder of the right shapes and no weights, for questions about size."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig

from reelnest.backbones.registry import family_of_config
from reelnest.encoder.encoder import Encoder, build_encoder
from reelnest.settings import Model

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4-bit NF4: half a byte, an 8-bit scale for 64 weights and a 32-bit one for 256 of those (Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314)."""


def unfilled_encoder(settings: Model, config: PreTrainedConfig) -> Encoder:
    """The encoder that `load_encoder` gives for training, on the meta device.

    Attention is SDPA (of FlashAttention's memory), and 4-bit weights are stand-ins of their size.
    """
    family = family_of_config(config.to_dict(), "config")
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, dtype=getattr(torch, settings.dtype), attn_implementation="sdpa")
        family.prepare(backbone, "sdpa")
        encoder = build_encoder(family, backbone, settings, training=True)
        if settings.load_in_4bit:
            _quantise(encoder.language_model)
    return encoder


class PackedLinear(nn.Module):
    """As large as a 4-bit linear layer, and unpacking its weight, for a moment, whenever it is used."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self._dtype = layer.in_features, layer.out_features, layer.weight.dtype
        self.register_buffer("weight", torch.empty(int(layer.weight.numel() * NF4_BYTES), dtype=torch.uint8))
        self.bias = layer.bias

    def forward(self, rows: Tensor) -> Tensor:
        """(…, in) to (…, out), of no meaning."""
        return _Unpacking.apply(rows.to(self._dtype), self.weight, (self.out_features, self.in_features), self.bias)


class _Unpacking(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, packed: Tensor, shape: tuple[int, int], bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return F.linear(rows, packed.new_empty(shape, dtype=rows.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient @ ctx.saved_tensors[0].new_empty(ctx.shape, dtype=gradient.dtype), None, None, None


def _quantise(module: nn.Module) -> None:
    for name, child in module.named_children():
        # Adapters stay as they are; they are a module's `lora_A` and `lora_B`.
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child))
        elif not name.startswith("lora_"):
            _quantise(child)
