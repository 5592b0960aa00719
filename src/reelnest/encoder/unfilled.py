"""An encoder with shapes but no weights, to measure sizes."""

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
    """Builds the encoder of `load_encoder` for training on the meta device.

    Attention is SDPA, which needs as much memory as FlashAttention. 4-bit weights are stand-ins of the same size.
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
    """A stand-in with the size of a 4-bit linear layer that unpacks its weight on each use."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self._dtype = layer.in_features, layer.out_features, layer.weight.dtype
        self.register_buffer("weight", torch.empty(int(layer.weight.numel() * NF4_BYTES), dtype=torch.uint8))
        self.bias = layer.bias

    def forward(self, rows: Tensor) -> Tensor:
        """Returns (…, out) for (…, in); the values are meaningless."""
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
        # Adapters, `lora_A` and `lora_B` of a module, are not quantised.
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child))
        elif not name.startswith("lora_"):
            _quantise(child)
