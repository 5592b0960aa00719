"""Builds an index. Each video of a data folder is encoded at the full width, and only encoded again if the video or the model changes."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from reelnest.atomic_files import wait_for_lock
from reelnest.encoder.saved import SavedModel
from reelnest.engines.engine import Engine, Item, Manifest, Vector, base_folder, check_stored_dim, is_address, shown, write_version
from reelnest.engines.folder_vectors import FLOATS
from reelnest.engines.stored import FORMAT_VERSION
from reelnest.errors import ConfigError, DataError, ModelError, VideoError
from reelnest.progress import Activity
from reelnest.records.content_hash import value_hash
from reelnest.records.formats import TEXT_FIELDS, VIDEOS_FILE, BadRecord, Video, read_videos, video_files
from reelnest.search.storage import unit
from reelnest.serving.cached_vectors import CachedVectors, Vectors
from reelnest.serving.windows import windows_of
from reelnest.settings import Index, Storage
from reelnest.store.entries import Entry
from reelnest.store.frame_cache import frames_key
from reelnest.store.frame_store import FrameStore
from reelnest.store.prepared import fields_text
from reelnest.video.decoder import Decoder, Limits, in_parallel
from reelnest.video.frames import Frames
from reelnest.video.known_videos import KnownVideos

log = logging.getLogger(__name__)

GRAPH_FROM = 100_000
"""The number of videos from which `graph=None` builds a graph. Exact search over fewer videos takes about 10 ms."""
LONGEST_HASH = 16
MOST_VALUES = 100
"""Values of a tag that the manifest lists."""


@dataclass(frozen=True)
class ModelSource:
    """A model and its description in an index."""

    model: SavedModel
    name: str
    """See `Manifest.model`."""
    hash: str
    base: str


@dataclass(frozen=True)
class IndexForm:
    """How the vectors of an index are stored and searched."""

    storage: Storage = "float32"
    dim: int | None = None
    """How many numbers of each vector are stored, one of the model's dims. None: all."""
    graph: bool | None = None
    """Whether to build an approximate index over the smallest dim. None: only from GRAPH_FROM videos on."""


@dataclass(frozen=True)
class IndexOptions:
    """Options of `build_index`."""

    limits: Limits
    """Limits of the decoder."""
    index: Index
    known: Path
    """The folder of `KnownVideos`."""
    form: IndexForm
    batch_size: int = 64
    store: FrameStore | None = None
    """Frames that are already decoded."""


@dataclass(frozen=True)
class Indexed:
    """The result of `build_index`."""

    manifest: Manifest
    encoded: int
    """The number of videos that were encoded in this run."""
    skipped: tuple[BadRecord, ...]
    """Videos that are missing from the index."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A video, or a window of one, to index."""

    video: Video
    frames_key: str
    text: str
    key: str
    is_window: bool


def build_index(source: ModelSource, data: Path, engine: Engine, location: str, work: Path, options: IndexOptions) -> Indexed:
    """Builds the index of the videos of `data` with `engine`, and atomically replaces an existing one.

    If a video's bytes, its text and the model are unchanged, its vector is reused from the previous index or from a killed run (cached in
    `work`). Frames are read from `options.store` if it has them. Videos that cannot be read are left out and listed. A second process that
    builds the same index waits for the first one.

    Args:
        location: the index's. Paths in its manifest are relative to it (see `base_folder`).

    Raises ConfigError for a storage type or a dim that is not possible, DataError if there is no data or no video can be read, ModelError
    for vectors that contain NaN or infinity.
    """
    if options.form.storage not in engine.storages:
        raise ConfigError(f"storage {options.form.storage}: {shown(location)} can store {', '.join(engine.storages)}.")
    dims = _dims(source.model.dims, options.form.dim)
    is_float = options.form.storage in FLOATS
    base = base_folder(location)
    # A folder may have several names, and any characters in any locale.
    place = work / hashlib.sha256(os.fsencode(location if is_address(location) else base)).hexdigest()[:LONGEST_HASH]
    with wait_for_lock(place.with_suffix(".lock"), shown(location)):
        videos, bad = read_videos(data)
        windows = windows_of(videos, data, options.index, options.limits, options.known, source.model.frame_settings.sampling.decoder)
        items, unreadable = _items(videos, data, source.model, windows, options.known)
        number_type = options.form.storage if is_float else "float32"
        before = _vectors_before(engine, source, dims, number_type, [item.key for item in items])
        cache = place / f"{source.hash[:LONGEST_HASH]}-{number_type}-{source.model.encoder.precision}"
        cached = CachedVectors(cache)
        if not is_float:  # the new index will not give them back
            _cache(before, cached, options.batch_size)
        missing = {item.key: item for item in items if item.key not in before and item.key not in cached}
        failed = _encode(list(missing.values()), data, source.model, cached, options, number_type)
        good = sorted((item for item in items if item.key not in failed), key=lambda item: item.video.video_id)
        bad += unreadable + [_bad(item.video, failed[item.key], data) for item in items if item.key in failed]
        if not good:
            example = f" First: {bad[0].file}, line {bad[0].line}: {bad[0].detail}." if bad else ""
            raise DataError(f"{data / VIDEOS_FILE}: no video that can be read, so there is nothing to index.{example}")
        has_graph = len(good) >= GRAPH_FROM if options.form.graph is None else options.form.graph
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            model=source.name,
            model_hash=source.hash,
            base=source.base,
            dims=dims,
            data=os.path.relpath(data.resolve(), base),
            data_hash=value_hash([[item.video.video_id, item.key] for item in good]),
            precision=source.model.encoder.precision,
            storage=options.form.storage,
            graph_dim=dims[0] if has_graph else None,
            tags=_common_tags([item.video for item in good]),
            videos=len(good),
            windows=sum(item.is_window for item in good),
            skipped=len(bad),
        )
        vectors = (before[item.key] if item.key in before else cached[item.key] for item in good)
        if not is_float:  # normalised before they are cut, as in the evaluation
            vectors = (unit(torch.from_numpy(np.array(vector))[None])[0].numpy() for vector in vectors)
        rows = (Item(item.video, item.key, vector[: dims[-1]]) for item, vector in zip(good, vectors, strict=True))
        write_version(engine, manifest, rows, bad, options.batch_size)
        # Codes and signs do not give the vectors back, so those stay for the next run.
        for unused in [place] if is_float else [folder for folder in place.glob("*") if folder != cache]:
            shutil.rmtree(unused, ignore_errors=True)
    return Indexed(manifest, len(missing) - len(failed), tuple(sorted(bad, key=lambda record: record.line)))


def _items(
    videos: Sequence[Video], data: Path, model: SavedModel, windows: Mapping[str, Sequence[Video]], cache: Path
) -> tuple[list[_Item], list[BadRecord]]:
    names = TEXT_FIELDS if model.text_fields is None else model.text_fields
    items: list[_Item] = []
    bad: list[BadRecord] = []
    with KnownVideos(cache) as known:
        contents = known.contents(videos, partial(video_files, folder=data))
        for video, content in Activity("hashing", len(videos), "video").over(contents):
            if isinstance(content, VideoError):
                bad.append(_bad(video, content, data))
                continue
            text = fields_text(tuple((name, video.fields[name]) for name in names if name in video.fields))
            for row in windows.get(video.video_id, (video,)):
                key = frames_key(content.cut(row.segment), model.frame_settings)
                vector_key = hashlib.sha256(json.dumps([key, text]).encode()).hexdigest()
                items.append(_Item(row, key, text, vector_key, is_window=row is not video))
    return items, bad


def _dims(trained: Sequence[int], dim: int | None) -> tuple[int, ...]:
    check_stored_dim(trained, dim)
    return tuple(each for each in trained if dim is None or each <= dim)


def _common_tags(videos: Sequence[Video]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for video in videos:
        for name, text in video.tags.items():
            counts[name][text] += 1
    return {name: dict(sorted(counts[name].items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_VALUES]) for name in sorted(counts)}


def _vectors_before(
    engine: Engine, source: ModelSource, dims: tuple[int, ...], number_type: str, keys: Sequence[str]
) -> Mapping[str, Vector]:
    """Returns the vectors of the existing index by key; empty if another model made it, or another precision."""
    try:
        manifest = engine.manifest
    except DataError:
        return {}
    made_by = (source.hash, number_type, source.model.encoder.precision)
    # Vectors of the full width can be cut and stored in any way.
    if (manifest.model_hash, manifest.storage, manifest.precision) != made_by or manifest.dims not in (dims, tuple(source.model.dims)):
        return {}
    return engine.vectors(keys)


def _cache(vectors: Mapping[str, Vector], cached: CachedVectors, batch_size: int) -> None:
    keys = iter([key for key in vectors if key not in cached])
    while batch := list(islice(keys, batch_size)):
        cached.add(batch, np.stack([vectors[key] for key in batch]))


def _encode(
    items: Sequence[_Item],
    data: Path,
    model: SavedModel,
    cached: CachedVectors,
    options: IndexOptions,
    number_type: str,
) -> dict[str, VideoError]:
    """Encodes `items` into `cached`. Returns the errors by key."""

    def work(decoder: Decoder, item: _Item) -> Frames:
        frames = None if options.store is None else options.store.by_key(item.frames_key)
        if frames is not None:
            return frames
        return decoder.frames(video_files(item.video, data), model.frame_settings, item.video.segment)

    failed: dict[str, VideoError] = {}
    started = time.monotonic()
    results = in_parallel(items, work, options.limits)
    with Activity("encoding", len(items), "video") as activity:
        while batch := list(islice(results, options.batch_size)):
            decoded = [(item, frames) for item, frames in batch if not isinstance(frames, VideoError)]
            failed |= {item.key: frames for item, frames in batch if isinstance(frames, VideoError)}
            if decoded:
                entries = [Entry("target", item.text, frames) for item, frames in decoded]
                vectors = model.encode(entries, dim=model.dims[-1], batch_size=options.batch_size)
                _check_finite(vectors, [item.video.video_id for item, _ in decoded])
                cached.add([item.key for item, _ in decoded], vectors.astype(number_type))
            activity.advance(len(batch))
    if items:
        seconds = time.monotonic() - started
        done = len(items) - len(failed)
        log.info("encoded %d videos in %.1f s (%.1f a second), %d could not be read", done, seconds, done / max(seconds, 1e-9), len(failed))
    return failed


def _check_finite(vectors: Vectors, video_ids: Sequence[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ModelError(
            f"the model's vector of video {video_ids[bad[0]]} contains NaN or infinity, so nothing can be ranked. Training has diverged or"
            " the weights are damaged. Check the loss in reports/training.csv."
        )


def _bad(video: Video, error: VideoError, data: Path) -> BadRecord:
    return BadRecord(VIDEOS_FILE, video.line, error.reason, str(error).replace(f"{data.resolve()}{os.sep}", ""), video.video_id)
