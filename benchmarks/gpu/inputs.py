"""Random models and random data of given sizes, for the project's own training loop."""

import math
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from transformers import AutoModel, PreTrainedConfig

from benchmarks.gpu.reporting import Run
from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.attention import choose_attention
from reelnest.backbones.family import Family
from reelnest.backbones.registry import family_of_config
from reelnest.encoder.batches import Batcher
from reelnest.encoder.encoder import COMPUTE_DTYPES, Encoder, build_encoder
from reelnest.prefetch import prefetched
from reelnest.profiling.throughput import WorkOf, peak_flops
from reelnest.settings import Params
from reelnest.store.entries import Entry, Role
from reelnest.store.prepared import Pairs, Prepared
from reelnest.training.batches.negatives import ExtraNegatives
from reelnest.training.batches.pair_batches import PairBatcher
from reelnest.training.batches.sampler import BatchOrder
from reelnest.training.checkpoint.checkpoints import Checkpoints
from reelnest.training.contrastive_model import ContrastiveModel
from reelnest.training.loop import Training, TrainingData
from reelnest.training.memory_prediction.step_shapes import Sizes, largest_grid
from reelnest.training.tracker import Trackers
from reelnest.video.frames import Frames

FamilyOfCheck = Literal["qwen2_5_vl", "qwen3_vl_embedding"]
NAMES = {"qwen2_5_vl": "Qwen/Qwen2.5-VL-3B-Instruct", "qwen3_vl_embedding": "Qwen/Qwen3-VL-Embedding-2B"}
TINY = {"hidden_size": 64, "layers": 2, "heads": 2, "vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2, "vocabulary": 512}
TEXT_TOKENS = 32
LORA = {"r": 16, "alpha": 32.0}


def settings(run: Run, family: FamilyOfCheck = "qwen2_5_vl", *, small: bool = False, **sections: dict[str, Any]) -> Params:
    """Returns settings of the published size, or with `small` or in a tiny run, of a small model. `sections` have further settings."""
    tiny = small or run.tiny
    model: dict[str, Any] = {"name_or_path": "tiny", "family": family, "tiny": TINY, "dims": [16, 32, 64], "pooling": "last"}
    pixels = 64 * 64  # a size that both families have
    if not tiny:
        model = {"name_or_path": NAMES[family], "revision": "none", "dims": [256, 512, 1024, 2048], "pooling": "last"}
        pixels = 224 * 224
    preprocess = {"frames": 4 if tiny else 16, "min_pixels": 56 * 56, "max_pixels": pixels}
    train: dict[str, Any] = {"batch_size": 4 if tiny else 8, "optimizer": "adamw", "learning_rate": 5e-3 if small else 1e-4, "trackers": []}
    own = {"preprocess": preprocess, "model": model, "train": train, "launch": {"config": "gpu-1" if run.on_gpu else "cpu-1"}}
    return Params.model_validate({name: {**own.get(name, {}), **sections.get(name, {})} for name in {*own, *sections}})


def sizes_of(params: Params, family: Family) -> Sizes:
    """Returns the sizes of each entry's text and video."""
    return Sizes(TEXT_TOKENS, largest_grid(params.preprocess, family.vision))


def random_encoder(params: Params, device: torch.device, seed: int = 0) -> Encoder:
    """Builds an encoder for training on `device`, with the initial weights of its classes and adapters that are not zero."""
    config = backbone_config(params.model)
    family = family_of_config(config.to_dict(), "config")
    dtype, autocast_dtype = getattr(torch, params.model.dtype), COMPUTE_DTYPES[params.train.mixed_precision]
    attention = choose_attention(params.model.attention, device, autocast_dtype or dtype)
    torch.manual_seed(seed)
    with torch.device(device):
        backbone = AutoModel.from_config(config, dtype=dtype, attn_implementation=attention)
        family.prepare(backbone, attention)
        encoder = build_encoder(family, backbone, params.model, training=True)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    encoder.autocast_dtype = autocast_dtype
    if params.train.gradient_checkpointing:
        encoder.enable_gradient_checkpointing()
    return encoder


class RandomItems:
    """As many texts as videos with a text, with random contents. Item i and item `count` + i are a pair.

    Has the members of `Prepared` that batches and mining use. With `cached`, videos carry tokens, as with a frozen vision tower.
    """

    def __init__(self, params: Params, config: PreTrainedConfig, count: int, *, cached: bool) -> None:
        family, random = family_of_config(config.to_dict(), "config"), np.random.default_rng(0)
        sizes = sizes_of(params, family)
        half = params.model.dtype == "bfloat16" or params.train.mixed_precision != "no"
        self.store = range(count)
        self.entries: list[Entry] = []
        for number in range(2 * count):
            text = " ".join(f"w{word}" for word in random.integers(0, 1000, sizes.text_tokens))
            if number < count:
                self.entries.append(Entry("query", text, None))
                continue
            rows = random.integers(0, 256, (math.prod(sizes.grid), family.vision.row_width), dtype=np.uint8)
            tokens = None
            if cached:
                tokens = random.standard_normal((family.vision.tokens(sizes.grid), family.video_width(config)), dtype=np.float32)
                if half:
                    tokens = torch.from_numpy(tokens).bfloat16().view(torch.int16).numpy().view(np.uint16)
            self.entries.append(Entry("target", text, Frames.of(rows, sizes.grid, 1.0, family.vision), tokens))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def pairs(self) -> Pairs:
        """All pairs."""
        count = len(self.store)
        none = tuple(np.empty(0, np.int64) for _ in range(count))
        return Pairs(np.arange(count), np.arange(count, 2 * count), np.ones(count, np.float32), none)

    def entry(self, item: int, _role: Role) -> Entry:
        """Returns an item as the encoder reads it."""
        return self.entries[item]

    def related(self, item: int) -> np.ndarray:
        """Returns the items that are paired with an item."""
        return np.array([(item + len(self.store)) % len(self)], dtype=np.int64)


class WordNumbers:
    """A tokenizer that maps each word to one token, and needs no files."""

    name_or_path = "word numbers"

    def __init__(self, special_tokens: Sequence[str], vocabulary: int) -> None:
        self._special = {token: number for number, token in enumerate(special_tokens)}
        self._words = vocabulary - len(special_tokens)

    def convert_tokens_to_ids(self, tokens: str) -> int:
        """Returns a special token's id."""
        return self._special[tokens]

    def get_vocab(self) -> dict[str, int]:
        """Returns the special tokens' ids."""
        return self._special

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None, **_options: Any) -> dict[str, list[list[int]]]:
        """Returns each text's ids."""
        ids = [[len(self._special) + zlib.crc32(word.encode()) % self._words for word in text.split()] for text in texts]
        return {"input_ids": [row[:max_length] for row in ids]}


def batcher_of(encoder: Encoder, params: Params) -> Batcher:
    """Returns the maker of batches."""
    vocabulary = int(encoder.backbone.config.get_text_config().vocab_size)
    return Batcher(cast("Any", WordNumbers(encoder.family.special_tokens, vocabulary)), params.model, encoder.family)


def training_of(
    params: Params,
    encoder: Encoder,
    accelerator: Accelerator,
    *,
    cached: bool,
    checkpoints: Path | None = None,
    pairs: int | None = None,
    batcher: Batcher | None = None,
    shard: Callable[[ContrastiveModel], object] | None = None,
) -> Training:
    """Builds the training loop around an encoder, for `pairs` pairs, by default those of one batch. `batcher` has a real tokenizer.

    `shard` changes the model before its optimizer is built.
    """
    encoder.vision_is_cached = cached
    count = params.train.batch_size
    items = RandomItems(params, encoder.backbone.config, pairs or count, cached=cached)
    batcher = batcher or batcher_of(encoder, params)
    prepared, order = cast("Prepared", items), BatchOrder(len(items.store), count, params.train.seed)
    negatives = None
    if params.mining.negatives_per_pair:
        negatives = ExtraNegatives(prepared, items.pairs, encoder, batcher, params, order.batches)
    intra_modal = params.loss.needs_intra_modal_relations
    pair_batcher = PairBatcher(prepared, items.pairs, batcher, 0, 1, negatives=negatives, intra_modal=intra_modal)
    model = ContrastiveModel(encoder, params.loss, params.model.dims)
    if shard is not None:
        shard(model)
    data = TrainingData(pair_batcher, order, None, negatives)
    return Training(params, accelerator, model, data, Checkpoints(checkpoints or Path("unused"), "steps"), Trackers())


def accelerator_of(run: Run, params: Params) -> Accelerator:
    """Returns accelerate's handle on the device."""
    return Accelerator(cpu=not run.on_gpu, mixed_precision=params.train.mixed_precision)


def steps(run: Run, params: Params, training: Training, *, warm_up: int, counted: int) -> dict[str, Any]:
    """Takes steps, with batches that a thread makes meanwhile, and returns the rates of those after `warm_up` steps."""
    training.step.wrapped.train()
    rows = np.arange(params.train.batch_size)[None]
    seconds = math.nan
    with closing(prefetched(repeat(rows, warm_up + counted), training._make_step)) as batches:
        for number, step in enumerate(batches):
            if number == warm_up:
                run.synchronize()
                run.begin_peak()
                started = time.perf_counter()
            training.take_step(0, step)
        run.synchronize()
        seconds = (time.perf_counter() - started) / counted
    losses = [row.loss for row in training._history.flush()]
    run.require(all(map(math.isfinite, losses)), f"losses are not finite: {losses}")
    count = WorkOf(training.model.encoder)
    work = [count(layout) for layout in step[0].layouts]
    flops, peak = sum(part.flops for part in work), peak_flops(run.device)
    return {
        "seconds_per_step": seconds,
        "pairs_per_second": params.train.batch_size / seconds,
        "tokens_per_second": sum(part.tokens for part in work) / seconds,
        "model_tflops_per_second": flops / seconds / 1e12,
        "mfu": None if peak is None else flops / seconds / peak,
        "peak_mib": run.peak_mib,
        "last_loss": losses[-1],
    }
