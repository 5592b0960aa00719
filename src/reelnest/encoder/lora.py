"""Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685), through peft."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from reelnest.backbones.family import Family
from reelnest.encoder.lora_linear import join_adapters
from reelnest.settings import Lora

ADAPTER = "default"


def lora_config(settings: Lora, family: Family, base: str | None = None, revision: str | None = None) -> LoraConfig:
    """Returns the settings in peft's form."""
    targets = f"({family.language_targets})|({family.vision_targets})" if settings.vision else family.language_targets
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it by r, whatever its type
        lora_dropout=settings.dropout,
        target_modules=targets,
        bias="none",
        task_type="FEATURE_EXTRACTION",
        base_model_name_or_path=base,
        revision=revision,
    )


def add_adapters(backbone: nn.Module, settings: Lora, family: Family) -> None:
    """Adds adapters to `backbone` in place and freezes all other weights. New adapters do not change the output."""
    backbone.requires_grad_(False)
    inject_adapter_in_model(lora_config(settings, family), backbone, adapter_name=ADAPTER)
    for name, parameter in backbone.named_parameters():
        if "lora_" in name:
            # Adapters of a bfloat16 base stay float32: AdamW's steps are below bfloat16's resolution.
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    join_adapters(backbone)


def has_adapters(backbone: nn.Module) -> bool:
    """Returns whether `backbone` has adapters."""
    return any(isinstance(module, LoraLayer) for module in backbone.modules())


def merged_state(backbone: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the plain model's weights with the adapters merged in: base + scaling x B A, added in float32.

    Does not change `backbone`, so a continued training is not rounded. `state` is the backbone's state dict.
    """
    merged = {name.replace(".base_layer.", "."): value for name, value in state.items() if "lora_" not in name}
    for name, module in backbone.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        a, b = (state[f"{name}.lora_{side}.{ADAPTER}.weight"].float() for side in ("A", "B"))  # (r, in), (out, r)
        base = merged[f"{name}.weight"]
        change = module.scaling[ADAPTER] * (b @ a)
        merged[f"{name}.weight"] = (base.float() + change.to(base.device)).to(base.dtype)
    return merged


def adapter_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns only the adapters, with the names of peft's files."""
    return {f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": value for name, value in state.items() if "lora_" in name}


def load_adapter_state(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Loads adapters with peft's names into `backbone`. If names are missing or unexpected, loads nothing and returns them."""
    expected: dict[str, Any] = {
        peft_name: name for name in backbone.state_dict() if "lora_" in name for peft_name in adapter_state({name: torch.empty(0)})
    }
    wrong = sorted(set(expected) ^ set(tensors))
    if not wrong:
        backbone.load_state_dict({expected[name]: value for name, value in tensors.items()}, strict=False)
    return wrong
