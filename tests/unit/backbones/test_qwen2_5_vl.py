"""The facts of Qwen2.5-VL's file compared with transformers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy, get_parameters_from_modules
from peft.tuners.lora import LoraLayer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLVisionBlock
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from reelnest.backbones.families.qwen2_5_vl import FAMILY
from reelnest.encoder.encoder import load_encoder
from reelnest.settings import Lora, Model, NestedInfoNceSettings
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.distributed import shard_layers
from reelnest.video.vision_spec import VisionSpec


def accelerator(kind: DistributedType) -> tuple[Accelerator, FullyShardedDataParallelPlugin]:
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    return cast(
        "Accelerator", SimpleNamespace(distributed_type=kind, mixed_precision="bf16", state=SimpleNamespace(fsdp_plugin=plugin))
    ), plugin


def test_fsdp_shards_the_layers_of_tower_and_language_model_separately(tiny_base: Path) -> None:
    encoder, _ = load_encoder(Model(), tiny_base, training=True)
    sharding, plugin = accelerator(DistributedType.FSDP)
    shard_layers(sharding, FAMILY.wrap_classes)
    policy: Any = fsdp2_prepare_auto_wrap_policy(plugin, encoder)
    sharded = [module for module in encoder.modules() if policy(module)]
    layers = [module for module in encoder.modules() if isinstance(module, Qwen2_5_VLDecoderLayer | Qwen2_5_VLVisionBlock)]
    assert sharded == layers
    precision: Any = plugin.mixed_precision_policy
    assert (precision.param_dtype, precision.reduce_dtype, precision.output_dtype) == (torch.bfloat16, torch.float32, None)
    assert len(layers) == 6


def test_fsdp_leaves_the_parameters_of_the_loss_alone_in_bfloat16(tiny_base: Path) -> None:
    encoder, _ = load_encoder(Model(), tiny_base, training=True)
    model = ContrastiveModel(encoder, NestedInfoNceSettings(learn_temperature=True), (8, 16))
    sharding, plugin = accelerator(DistributedType.FSDP)
    shard_layers(sharding, FAMILY.wrap_classes)
    ignored = get_parameters_from_modules(cast("str", plugin.ignored_modules), model, torch.device("cpu"))
    assert ignored == set(model.objective.parameters())
    sharding.mixed_precision = "no"  # type: ignore[misc]  # a stand-in's setting
    shard_layers(sharding, FAMILY.wrap_classes)
    assert plugin.ignored_modules is None


def test_without_fsdp_no_layer_classes_are_set() -> None:
    plain, plugin = accelerator(DistributedType.MULTI_GPU)
    shard_layers(plain, FAMILY.wrap_classes)
    assert plugin.transformer_cls_names_to_wrap is None


@pytest.mark.parametrize("vision", [False, True])
def test_adapters_are_in_the_language_model_and_if_set_in_the_tower(tiny_base: Path, vision: bool) -> None:
    encoder, _ = load_encoder(Model(lora=Lora(r=2, vision=vision)), tiny_base, training=True)
    adapted = {name for name, module in encoder.backbone.named_modules() if isinstance(module, LoraLayer)}
    expected = {f"language_model.layers.{layer}.self_attn.{side}_proj" for layer in range(3) for side in "qkvo"}
    expected |= {f"language_model.layers.{layer}.mlp.{name}_proj" for layer in range(3) for name in ("gate", "up", "down")}
    if vision:
        expected |= {f"visual.blocks.{block}.attn.{name}" for block in range(3) for name in ("qkv", "proj")}
        expected |= {f"visual.blocks.{block}.mlp.{name}_proj" for block in range(3) for name in ("gate", "up", "down")}
    assert adapted == expected


def test_the_vision_spec_is_that_of_transformers_processor() -> None:
    theirs: Any = Qwen2VLImageProcessorPil()
    assert FAMILY.vision == VisionSpec(
        theirs.patch_size, theirs.merge_size, theirs.temporal_patch_size, tuple(theirs.image_mean), tuple(theirs.image_std)
    )
    assert FAMILY.vision.row_width == 1176


@pytest.mark.parametrize(
    ("name", "identifier"),
    [("Qwen/Qwen2.5-VL-3B-Instruct", "other"), ("Qwen/Qwen2.5-VL-7B-Instruct", "apache-2.0"), ("someone/Qwen2.5-VL-7B-Instruct", None)],
)
def test_only_the_makers_own_checkpoints_have_a_known_licence(name: str, identifier: str | None) -> None:
    license_ = FAMILY.license_of(name)
    assert (license_ and license_.identifier) == identifier
    assert FAMILY.hidden_size_of(name) is not None


def test_a_blank_video_is_one_token_of_grey(tiny_base: Path) -> None:
    encoder, _ = load_encoder(Model(), tiny_base, training=False)
    blank = encoder._blank_video()
    assert blank.rows is not None
    assert (blank.rows == 128).all()
    assert torch.isfinite(encoder.encode_video(blank)).all()
    assert len(encoder.encode_video(blank)) == 1
