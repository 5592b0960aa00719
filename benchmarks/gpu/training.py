"""Training steps at the published sizes."""

import time
from typing import Any

import torch

from benchmarks.gpu.inputs import LORA, FamilyOfCheck, accelerator_of, random_encoder, settings, sizes_of, steps, training_of
from benchmarks.gpu.reporting import Run
from benchmarks.gpu.requirements import is_installed
from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.registry import family_of_config
from reelnest.settings import Lora, Params
from reelnest.training.memory_prediction.step_memory import predict_step

CHECKPOINTED_LORA: dict[str, dict[str, Any]] = {
    "model": {"dtype": "bfloat16", "freeze": "vision", "lora": LORA},
    "train": {"mixed_precision": "bf16", "gradient_checkpointing": True},
}
MOST_OFF = 0.1
"""Of the predicted peak."""


def qwen2_5_vl(run: Run) -> None:
    """Qwen2.5-VL-3B."""
    _lora_steps(run, "qwen2_5_vl")


def qwen3_vl_embedding(run: Run) -> None:
    """Qwen3-VL-Embedding-2B."""
    _lora_steps(run, "qwen3_vl_embedding")


def _lora_steps(run: Run, family: FamilyOfCheck) -> None:
    params = settings(run, family, **CHECKPOINTED_LORA)
    predicted = _predicted_mib(run, params)
    run.figures(predicted_peak_mib=predicted)
    accelerator = accelerator_of(run, params)
    started = time.perf_counter()
    encoder = random_encoder(params, run.device)
    run.synchronize()
    run.figures(
        build_seconds=time.perf_counter() - started,
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        trainable=sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad),
    )
    made = None
    with run.part("cached video tokens"):
        made = training_of(params, encoder, accelerator, cached=True)
        measured = steps(run, params, made, warm_up=2, counted=4 if run.tiny else 10)
        run.figures(cached=measured)
        if measured["peak_mib"] is not None:
            off = measured["peak_mib"] / predicted - 1
            run.figures(peak_off=off)
            run.require(abs(off) <= MOST_OFF, f"the peak is {100 * off:+.0f} % off the prediction")
    with run.part("longest kernels"):
        run.figures(longest_kernels=_longest_kernels(run, params, made))
    made = None
    run.free()
    with run.part("running tower"):
        encoder.to(run.device)  # a tower with cached tokens is not on the device
        live = training_of(params, encoder, accelerator, cached=False)
        run.figures(live=steps(run, params, live, warm_up=2, counted=2 if run.tiny else 6))


def compiled(run: Run) -> None:
    """Qwen2.5-VL-3B with and without train.compile."""
    rates = {}
    for name, compiles in (("without", False), ("with", True)):
        params = settings(run, **CHECKPOINTED_LORA)
        accelerator = accelerator_of(run, params)
        encoder = random_encoder(params, run.device)
        started = time.perf_counter()
        if compiles:
            encoder.compile_layers("eager" if run.tiny else "inductor")
        made = training_of(params, encoder, accelerator, cached=True)
        steps(run, params, made, warm_up=1, counted=1)
        run.figures(**{f"{name}_first_steps_seconds": time.perf_counter() - started})
        rates[name] = steps(run, params, made, warm_up=1, counted=3 if run.tiny else 8)
        run.figures(**{name: rates[name]})
        del made, encoder, accelerator
        run.free()
    run.figures(gain=rates["with"]["pairs_per_second"] / rates["without"]["pairs_per_second"])


def _predicted_mib(run: Run, params: Params) -> float:
    """Returns what `reelnest memory` predicts. Call it before there is an Accelerator, since it resets accelerate's state."""
    config = backbone_config(params.model)
    family = family_of_config(config.to_dict(), "config")
    return predict_step(params, config, sizes_of(params, family), on_gpu=run.on_gpu).peak / (1 << 20)


def _longest_kernels(run: Run, params: Params, made: Any) -> dict[str, float] | None:
    """Returns the kernels that take longest in a step, with their milliseconds."""
    if not run.on_gpu:
        steps(run, params, made, warm_up=0, counted=1)
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        steps(run, params, made, warm_up=0, counted=1)
    longest = sorted(profiled.key_averages(), key=lambda event: -event.self_device_time_total)[:12]
    return {event.key[:100]: event.self_device_time_total / 1e3 for event in longest}


def qlora(run: Run) -> None:
    """Qwen2.5-VL-3B in 4 bits, in 8 GiB."""
    from benchmarks.gpu.checkpoint import checkpoint_folder
    from reelnest.encoder.encoder import COMPUTE_DTYPES, load_encoder
    from reelnest.training.memory_prediction.fitting import GIB, RESERVED

    bits = run.on_gpu
    if bits and not is_installed("bitsandbytes"):
        run.skip("bitsandbytes is not installed")
    lora = {**LORA, "merge": False}
    published = settings(run, **CHECKPOINTED_LORA)
    folder = checkpoint_folder(run, published)
    run.free()
    changes = {"load_in_4bit": bits, "lora": Lora.model_validate(lora)}
    predicted = _predicted_mib(run, published.model_copy(update={"model": published.model.model_copy(update=changes)}))
    run.figures(predicted_peak_mib=predicted)
    params = published.model_copy(
        update={"model": published.model.model_copy(update={**changes, "name_or_path": str(folder), "revision": None, "family": None})}
    )
    if run.on_gpu:
        total = torch.cuda.get_device_properties(run.device).total_memory
        torch.cuda.set_per_process_memory_fraction((8 * GIB - RESERVED) / total, run.device)
    accelerator = accelerator_of(run, params)
    started = time.perf_counter()
    dtype = COMPUTE_DTYPES[params.train.mixed_precision]
    encoder, _ = load_encoder(params.model, folder, training=True, device=run.device, autocast_dtype=dtype)
    encoder.enable_gradient_checkpointing()
    run.figures(load_seconds=time.perf_counter() - started, in_4_bits=bits)
    measured = steps(run, params, training_of(params, encoder, accelerator, cached=True), warm_up=2, counted=2 if run.tiny else 5)
    run.figures(**measured)
    if measured["peak_mib"] is not None:
        off = measured["peak_mib"] / predicted - 1
        run.figures(peak_off=off, reserved_mib=torch.cuda.max_memory_reserved(run.device) / (1 << 20))
        run.require(abs(off) <= MOST_OFF, f"the peak is {100 * off:+.0f} % off the prediction")
