"""Computes the features of frozen modules once, caches them on disk, and reads them from there in every step.

A frozen vision tower gives video tokens, about as many bytes as the frame store. A frozen backbone gives one pooled state for each item and
role. The cache is in `work/frozen/<key>/`; the key is a digest of everything that the features depend on.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from reelnest.backbones.segments import Segment
from reelnest.code_closure import FROZEN_FEATURES, code_digest
from reelnest.encoder.batches import Batcher
from reelnest.encoder.embedding import batches_by_length
from reelnest.encoder.encoder import Encoder
from reelnest.errors import TrainingError
from reelnest.evaluation.retrieval_sets import retrieval_sets
from reelnest.progress import Activity
from reelnest.settings import Params
from reelnest.store.cached_rows import CachedRows, CachedRowsWriter, Rows
from reelnest.store.entries import Entry, Role
from reelnest.store.prepared import Prepared
from reelnest.video.vision_spec import VisionSpec

log = logging.getLogger(__name__)

FORMAT = 1
FROZEN_FOLDER = "frozen"
"""Folder in `work/`."""
PATCHES_AT_ONCE = 8192
"""Patches per pass of the vision tower. Not a setting: the last bits of tokens may depend on the other patches of the pass."""
SPARE_SPACE = 1.1


@dataclass(frozen=True)
class _Job:
    """One kind of features: the number of rows of each item, and the function that computes them."""

    name: str
    module: PreTrainedModel
    """The frozen module."""
    counts: np.ndarray
    """Rows of each item, by number; 0 for items that are not needed."""
    batches: list[list[int]]
    """Numbers of the items that are computed together."""
    make: Callable[[list[int]], Sequence[Tensor]]
    facts: dict[str, Any]
    """What the rows depend on, besides weights, data and code."""


def cache_frozen_features(
    prepared: Prepared,
    store_digest: str,
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase,
    params: Params,
    accelerator: Accelerator,
    folder: Path,
) -> Prepared:
    """Returns the training data with cached features of the frozen module; unchanged data if nothing is frozen or the disk lacks space.

    Every process calls it before the model is wrapped or sharded. The processes share the work and `folder`. Features have the training's
    precision, and their batches do not depend on the number of processes. `store_digest` is a digest of the prepared data. Raises
    TrainingError if the disk fills up.
    """
    sharded = accelerator.distributed_type == DistributedType.FSDP
    if _is_frozen(encoder.backbone) and not sharded:  # a sharded backbone does not fit on one device
        job = _pooled_states(prepared, encoder.to(accelerator.device), tokenizer, params)
        cached = _cached_rows(job, store_digest, encoder, accelerator, folder)
        encoder.vision_is_cached = cached is not None
        return prepared if cached is None else prepared.with_cached(pooled=cached)
    if _is_frozen(encoder.vision_tower):
        encoder.vision_tower.to(accelerator.device)
        job = _video_tokens(prepared, encoder, params)
        cached = _cached_rows(job, store_digest, encoder, accelerator, folder)
        encoder.vision_is_cached = cached is not None
        return prepared if cached is None else prepared.with_cached(video_tokens=cached)
    return prepared


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())


def _needed(prepared: Prepared, params: Params) -> Iterator[tuple[np.ndarray, Role]]:
    """Yields the items that training, mining and evaluations read, by role."""
    pairs = prepared.pairs("train")
    yield pairs.queries, "query"
    if params.mining.mines:
        yield pairs.queries, "target"  # a query of one pair may be a negative of another
    yield np.concatenate([pairs.targets, *pairs.negatives]).astype(np.int64), "target"
    for searched in retrieval_sets(prepared, "validation"):
        yield searched.queries, "query"
        yield searched.corpus, "target"


def _video_tokens(prepared: Prepared, encoder: Encoder, params: Params) -> _Job:
    store = prepared.store
    places = np.unique(np.concatenate([prepared.video_places(items) for items, _ in _needed(prepared, params)]))
    patches = store.grids.astype(np.int64).prod(axis=1)
    counts = np.zeros(len(store), dtype=np.int64)
    counts[places] = patches[places] // store.vision.merge_size**2
    batches: list[list[int]] = []
    room = 0
    for place in places.tolist():
        if room < patches[place]:
            batches.append([])
            room = PATCHES_AT_ONCE
        batches[-1].append(place)
        room -= patches[place]

    def make(chosen: list[int]) -> Sequence[Tensor]:
        videos = [store.at(place) for place in chosen]
        rows = torch.from_numpy(np.concatenate([video.rows for video in videos]))
        segment = Segment.of_frames(rows, torch.tensor([video.grid_thw for video in videos]))
        return encoder.encode_video(segment.to(encoder.device)).split(counts[chosen].tolist())

    return _Job("video tokens", encoder.vision_tower, counts, batches, make, {})


def _pooled_states(prepared: Prepared, encoder: Encoder, tokenizer: PreTrainedTokenizerBase, params: Params) -> _Job:
    batcher = Batcher(tokenizer, params.model, encoder.family)
    numbers = np.unique(
        [prepared.entry_number(item, role) for items, role in _needed(prepared, params) for item in np.unique(items).tolist()]
    )
    counts = np.zeros(2 * len(prepared), dtype=np.int64)
    counts[numbers] = 1
    entries = _Entries(prepared, numbers)

    def make(chosen: list[int]) -> Sequence[Tensor]:
        batch = batcher([prepared.entry(*prepared.item_and_role(number)) for number in chosen])
        return encoder.pooled(batch.to(encoder.device)).split(1)

    batches = [numbers[batch].tolist() for batch in batches_by_length(entries, params.evaluate.batch_size)]
    words = json.loads(cast("PreTrainedTokenizerFast", tokenizer).backend_tokenizer.to_str())
    facts = {
        "batch_size": params.evaluate.batch_size,
        "model": params.model.model_dump(include={"pooling", "query_instruction", "target_instruction", "max_text_tokens"}),
        # A tokenizer stores the settings of its last call.
        "tokenizer": {name: value for name, value in words.items() if name not in ("truncation", "padding")},
    }
    return _Job("pooled states", encoder.backbone, counts, batches, make, facts)


class _Entries(Sequence[Entry]):
    """Entries by their index in `numbers`, built on access."""

    def __init__(self, prepared: Prepared, numbers: np.ndarray) -> None:
        self._prepared = prepared
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> Entry:  # type: ignore[override]  # places are numbers here
        return self._prepared.entry(*self._prepared.item_and_role(int(self._numbers[place])))


def _cached_rows(job: _Job, store_digest: str, encoder: Encoder, accelerator: Accelerator, folder: Path) -> CachedRows | None:
    """Returns the cached rows, computed now unless they exist; None if there are none, or no disk space."""
    if not job.batches:
        return None
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad(), accelerator.autocast():
            plan: Any = _plan(job, _key(job, store_digest, encoder.vision, accelerator), folder) if accelerator.is_main_process else None
            plan = _from_main_process(plan)
            if plan is None:
                return None
            place, aside, width, dtype = plan
            if aside is not None:
                _write(job, encoder.vision, (Path(place), Path(aside)), width, dtype, accelerator)
    finally:
        encoder.train(was_training)
    return CachedRows(Path(place), encoder.vision)


def _plan(job: _Job, key: str, folder: Path) -> tuple[str, str | None, int, str] | None:
    """Returns the folder, the temporary folder (None if the cache exists), the width and the dtype of the rows; None without disk space."""
    place = folder / key
    if place.is_dir():
        return str(place), None, 0, ""
    example = _numpy(job.make(job.batches[0][:1])[0])
    size = int(job.counts.sum()) * example.shape[1] * example.itemsize
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < SPARE_SPACE * size:
        log.warning(
            "training: the %s of the frozen module need %.1f GB, but %s has %.1f GB free; computing them again in each epoch",
            job.name,
            size / 1e9,
            folder,
            free / 1e9,
        )
        return None
    return str(place), str(CachedRowsWriter.begin(place)), example.shape[1], example.dtype.name


def _write(job: _Job, vision: VisionSpec, folders: tuple[Path, Path], width: int, dtype: str, accelerator: Accelerator) -> None:
    place, aside = folders
    started, rank, ranks = time.perf_counter(), accelerator.process_index, accelerator.num_processes
    total = int((job.counts > 0).sum())
    try:
        writer = CachedRowsWriter(aside, job.counts, width, dtype)
        with Activity(job.name, total, "item", shown=rank == 0) as activity:
            for batch in job.batches[rank::ranks]:
                for number, rows in zip(batch, job.make(batch), strict=True):
                    writer.put(number, _numpy(rows))
                activity.advance(min(ranks * len(batch), total - activity.done))
        writer.close()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            writer.finish(aside, place, vision, {"what": job.name})
            for old in place.parent.iterdir():
                if old != place:
                    shutil.rmtree(old)
    except OSError as error:
        raise TrainingError(
            f"{place.parent}: cannot write the {job.name} of the frozen module ({error}). Free some space and start again."
        ) from error
    accelerator.wait_for_everyone()
    seconds = time.perf_counter() - started
    log.info("%s of the frozen module: %d items in %.1f s, %.0f a second", job.name, total, seconds, total / max(seconds, 1e-9))


def _key(job: _Job, store_digest: str, vision: VisionSpec, accelerator: Accelerator) -> str:
    facts = {
        "format": FORMAT,
        "name": job.name,
        "data": store_digest,
        "vision": asdict(vision),
        "counts": hashlib.sha256(job.counts.tobytes()).hexdigest(),
        "precision": accelerator.mixed_precision,
        "device": accelerator.device.type,
        "code": code_digest(FROZEN_FEATURES),
        "libraries": {name: version(name) for name in ("torch", "transformers")},
        **job.facts,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in job.module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    # Without the path that it was loaded from.
    config = {name: value for name, value in job.module.config.to_dict().items() if name != "_name_or_path"}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _numpy(rows: Tensor) -> Rows:
    rows = rows.cpu()
    array: Rows = rows.view(torch.int16).numpy().view(np.uint16) if rows.dtype == torch.bfloat16 else rows.numpy()
    return array


def _from_main_process(value: Any) -> Any:
    """Returns the main process's value on all processes."""
    return broadcast_object_list([value])[0]
