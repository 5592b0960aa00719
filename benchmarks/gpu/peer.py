"""The same model, weights and inputs in sentence-transformers.

Its batches are prepared before the clock starts, as if its data loader took no time; ours are prepared by a thread while steps run. Both
have both directions of the loss, the same dims, LoRA with float32 adapters, bfloat16 products, gradient checkpointing and fused AdamW.
"""

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.checkpoint import checkpoint_folder
from benchmarks.gpu.inputs import LORA, TEXT_TOKENS, RandomItems, accelerator_of, settings, steps, training_of
from benchmarks.gpu.reporting import Run
from benchmarks.gpu.requirements import is_installed
from benchmarks.gpu.training import CHECKPOINTED_LORA
from benchmarks.peers.training import LORA_TARGETS, add_processor
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import COMPUTE_DTYPES, Encoder, load_encoder
from reelnest.encoder.video_reading import sentence_transformers_input
from reelnest.settings import Params

TEMPERATURE = 0.05
LEAST_COSINE = 0.99
LEAST_RATIO = 3.0


def training(run: Run) -> None:
    """Steps of both libraries, and the vectors before the first step."""
    for name in ("sentence_transformers", "torchvision"):  # its processors need torchvision
        if not is_installed(name):
            run.skip(f"{name} is not installed")
    published = settings(run, **CHECKPOINTED_LORA)
    folder = checkpoint_folder(run, published)
    changes = {"name_or_path": str(folder), "revision": None, "family": None}
    params = published.model_copy(update={"model": published.model.model_copy(update=changes)})
    ours, vectors = _ours(run, params, folder)
    run.free()
    theirs = _theirs(run, params, folder, vectors)
    for name, rates in ours.items():
        run.figures(**{f"ratio_{name}": rates["pairs_per_second"] / theirs})
    ratio = ours["cached"]["pairs_per_second"] / theirs
    run.require(ratio >= LEAST_RATIO or not run.on_gpu, f"only {ratio:.1f} times as many pairs a second")


def _ours(run: Run, params: Params, folder: Path) -> tuple[dict[str, dict[str, Any]], Tensor]:
    accelerator = accelerator_of(run, params)
    dtype = COMPUTE_DTYPES[params.train.mixed_precision]
    encoder, tokenizer = load_encoder(params.model, folder, training=True, device=run.device, autocast_dtype=dtype)
    encoder.to(run.device).enable_gradient_checkpointing()
    batcher = Batcher(tokenizer, params.model, encoder.family)
    with torch.no_grad():
        vectors = _unit(encoder.eval()(batcher(_entries(params, encoder)).to(run.device)))
    encoder.train()
    rates = {}
    for name in ("live", "cached"):
        made = training_of(params, encoder, accelerator, cached=name == "cached", batcher=batcher)
        rates[name] = steps(run, params, made, warm_up=2, counted=2 if run.tiny else 6)
        run.figures(**{f"ours_{name}": rates[name]})
    return rates, vectors


def _entries(params: Params, encoder: Encoder) -> list[Any]:
    return RandomItems(params, encoder.backbone.config, params.train.batch_size, cached=False).entries


def _theirs(run: Run, params: Params, folder: Path, expected: Tensor) -> float:
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
    from sentence_transformers.models import Pooling, Transformer

    add_processor(folder, params.preprocess.min_pixels, params.preprocess.max_pixels)
    backbone = Transformer(str(folder), model_kwargs={"dtype": getattr(torch, params.model.dtype)})
    model = SentenceTransformer(modules=[backbone, Pooling(backbone.get_embedding_dimension(), "lasttoken")], device=str(run.device))
    items = RandomItems(params, backbone.model.config, params.train.batch_size, cached=False)
    count = len(items.store)
    inputs = [[entry.text for entry in items.entries[:count]], [_input(entry) for entry in items.entries[count:]]]
    started = time.perf_counter()
    batch = [_on(run.device, model.preprocess(side)) for side in inputs]
    run.figures(theirs_preprocess_seconds=time.perf_counter() - started, text_words=TEXT_TOKENS)
    with torch.no_grad():
        vectors = _unit(torch.cat([model.eval()(dict(side))["sentence_embedding"] for side in batch]))
    cosine = float((vectors * expected).sum(1).min())
    run.figures(least_cosine=cosine)
    run.require(cosine >= LEAST_COSINE, f"vectors before the first step have a cosine of {cosine:.4f} only")
    model.add_adapter(LoraConfig(r=int(LORA["r"]), lora_alpha=int(LORA["alpha"]), target_modules=LORA_TARGETS, bias="none"))
    model.train()
    backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=params.train.learning_rate, fused=True)
    directions: Any = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    ranking = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, **directions)
    loss = MatryoshkaLoss(model, ranking, list(params.model.dims))

    def step() -> None:
        with torch.autocast(run.device.type, torch.bfloat16):
            value = loss([dict(side) for side in batch], None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    run.begin_peak()
    seconds = run.seconds(step, repeats=2 if run.tiny else 5)
    run.figures(theirs={"seconds_per_step": seconds, "pairs_per_second": count / seconds, "peak_mib": run.peak_mib})
    return count / seconds


def _input(entry: Any) -> Any:
    return sentence_transformers_input(entry.frames, entry.text)


def _on(device: torch.device, features: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in features.items()}


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.float().cpu(), dim=1)
