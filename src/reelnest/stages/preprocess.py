"""Preprocessing: decodes every valid video once, numbers the texts and videos, and assigns the splits.

Reads `data/` and `reports/quarantine.jsonl`; writes `prepared/` and `reports/preprocessing.json`, whose bytes depend only on the data and
the settings. `work/preprocessing.json` counts the videos that this run decoded, and those that it took from the cache.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from reelnest.artifacts.preprocessing_report import Dropped, PreprocessingReport
from reelnest.atomic_files import atomic_folder, orphans_of, wait_for_lock, write_json
from reelnest.backbones.compatibility import check_frames
from reelnest.backbones.registry import family_of
from reelnest.errors import DataError, VideoError
from reelnest.progress import Activity
from reelnest.records.formats import (
    PAIRS_FILE,
    VIDEOS_FILE,
    Pair,
    Side,
    Video,
    known_ids,
    read_pairs,
    read_quarantine,
    read_videos,
    video_files,
)
from reelnest.records.pair_segments import cut_videos, overlapping_segments, segmented_files
from reelnest.records.splits import assign_splits, count_pairs
from reelnest.settings import Data, Params, load_params
from reelnest.stages.workspace import Workspace
from reelnest.store.frame_cache import FrameCache, frames_key, spill_frames
from reelnest.store.frame_store_writing import write_store
from reelnest.store.prepared import STORE_FOLDER, Fields, Prepared, write_tables
from reelnest.video.decoder import Decoder, Limits, in_parallel
from reelnest.video.frames import DecodingJob, FrameSettings
from reelnest.video.known_videos import KnownVideos
from reelnest.video.vision_spec import VisionSpec

log = logging.getLogger(__name__)

NAMED = 100
"""How many videos with an unusual decoder the report names; the index of the store has the decoder of every video."""


def run(workspace: Workspace, params: Params) -> None:
    """Runs the stage. Raises DataError if validation has not run, too many videos cannot be decoded, or no pair is left."""
    family = family_of(params.model)
    check_frames(params, family)
    prepare(workspace, params, family.vision).write(workspace.reports)


def main(_arguments: Sequence[str]) -> None:
    """The entry point of a job. Raises as `run` does."""
    workspace = Workspace()
    run(workspace, load_params(workspace.params))


def prepare(workspace: Workspace, params: Params, vision: VisionSpec) -> PreprocessingReport:
    """Writes `prepared/` with frames in the layout of `vision`, and returns the report. Raises DataError as `run` does.

    Waits for another process that prepares with the same cache of frames.
    """
    frames = workspace.frames.resolve()  # checkouts may share it by a link
    with wait_for_lock(frames.with_name(f"{frames.name}.lock"), frames):
        return _prepare(workspace, params, vision)


def _prepare(workspace: Workspace, params: Params, vision: VisionSpec) -> PreprocessingReport:
    started = time.monotonic()
    videos, pairs = _read(workspace)
    settings = FrameSettings(params.preprocess, vision)
    keys, dropped = _keys(videos, workspace.data, settings, workspace.frames)
    cache = FrameCache(workspace.frames)
    undecoded = {key: video for video in videos if (key := keys.get(video.video_id)) is not None and key not in cache}
    missing = [DecodingJob(key, video_files(video, workspace.data), video.segment) for key, video in undecoded.items()]
    failed = _decode(missing, params, settings, cache)
    dropped |= {video_id: failed[key] for video_id, key in keys.items() if key in failed}
    good = {video.video_id: keys[video.video_id] for video in videos if video.video_id not in dropped}

    usable = [pair for pair in pairs if not any(side.kind == "video" and side.value not in good for side in _sides(pair))]
    _check_enough(videos, dropped, usable, params)
    splits = assign_splits(usable, params.data.validation_fraction, params.data.test_fraction, segmented_files(videos))
    cache.prune(set(good.values()))
    _remove_unfinished(workspace.prepared)
    with atomic_folder(workspace.prepared) as folder:
        used = write_store(folder / STORE_FOLDER, list(good.items()), cache, params.preprocess.shard_megabytes, vision)
        used_videos = [video for video in videos if video.video_id in good]
        fields = {video.video_id: _fields(video, params.data) for video in used_videos}
        tags = {video.video_id: tuple(video.tags.items()) for video in used_videos}
        write_tables(folder, fields, usable, splits, tags, overlapping_segments(used_videos))
    cache.keep_only(used)

    left_out = Dropped(
        videos=len(dropped),
        by_reason=dict(Counter(error.reason for error in dropped.values())),
        details={video_id: str(error) for video_id, error in dropped.items()},
        pairs=len(pairs) - len(usable),
    )
    report = _report(Prepared.open(workspace.prepared), usable, splits, left_out)
    seconds = time.monotonic() - started
    write_json(
        workspace.work / "preprocessing.json",
        {"videos": len(good), "decoded": len(missing) - len(failed), "failed": len(failed), "seconds": round(seconds, 3)},
    )
    log.info("prepared %d videos (%d decoded now) and %d pairs in %.1f s", len(good), len(missing) - len(failed), len(usable), seconds)
    return report


def _read(workspace: Workspace) -> tuple[list[Video], list[Pair]]:
    """Returns the records that are not quarantined, and the videos that pairs cut out of others."""
    quarantine = read_quarantine(workspace.reports / "quarantine.jsonl")
    videos, bad_videos = read_videos(workspace.data)
    pairs, bad_pairs = read_pairs(workspace.data, known_ids(videos, bad_videos))
    videos = [video for video in videos if (VIDEOS_FILE, video.line) not in quarantine]
    pairs = [pair for pair in pairs if (PAIRS_FILE, pair.line) not in quarantine]
    cut, pairs, uncut = cut_videos(videos, pairs)
    bad = [*bad_videos, *bad_pairs, *uncut]
    unknown = [(record.file, record.line) for record in bad if (record.file, record.line) not in quarantine]
    if unknown:
        file, line = unknown[0]
        raise DataError(
            f"{workspace.data / file}, line {line}: invalid record. {len(unknown)} invalid records are new since the last validation. "
            "Run `reelnest validate`."
        )
    return [*videos, *cut], pairs


def _keys(videos: Sequence[Video], data: Path, settings: FrameSettings, frames: Path) -> tuple[dict[str, str], dict[str, VideoError]]:
    """Returns the cache key of each video (of its bytes and sampling settings), and the errors of videos that cannot be read."""
    keys: dict[str, str] = {}
    unreadable: dict[str, VideoError] = {}
    with KnownVideos(frames) as known:
        contents = known.contents(videos, partial(video_files, folder=data))
        for video, content in Activity("hashing", len(videos), "video").over(contents):
            if isinstance(content, VideoError):
                unreadable[video.video_id] = content
            else:
                keys[video.video_id] = frames_key(content.cut(video.segment), settings)
    return keys, unreadable


def _decode(missing: Sequence[DecodingJob], params: Params, settings: FrameSettings, cache: FrameCache) -> dict[str, VideoError]:
    """Decodes missing videos into the cache; returns the errors by key."""
    if not missing:
        return {}
    started = time.monotonic()
    limits, address = Limits.of(params.validation), params.preprocess.scheduler
    if address is None:
        results = _decode_here(missing, settings, limits, cache)
    else:
        from reelnest.video.cluster import decode_on_cluster  # Dask takes half a second

        results = decode_on_cluster(address, missing, settings, limits, cache.spill, spill_frames, cache.adopt)
    failed = {key: error for key, error in Activity("decoding", len(missing), "video").over(results) if error is not None}
    seconds = time.monotonic() - started
    rate = len(missing) / max(seconds, 1e-9)
    log.info("decoded %d videos in %.1f s (%.1f a second), %d failed", len(missing), seconds, rate, len(failed))
    return failed


def _decode_here(
    missing: Sequence[DecodingJob], settings: FrameSettings, limits: Limits, cache: FrameCache
) -> Iterator[tuple[str, VideoError | None]]:
    def work(decoder: Decoder, job: DecodingJob) -> None:
        cache.add(job.key, decoder.frames(job.files, settings, job.segment))

    for job, error in in_parallel(missing, work, limits):
        yield job.key, error


def _check_enough(videos: Sequence[Video], dropped: dict[str, VideoError], usable: Sequence[Pair], params: Params) -> None:
    allowed = params.validation.max_quarantined_fraction
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(error.reason for error in dropped.values()).items()))
    if len(dropped) > allowed * len(videos):
        example = next(iter(dropped))
        raise DataError(
            f"{len(dropped)} of {len(videos)} videos that passed validation cannot be decoded ({reasons}), more than "
            f"validate.max_quarantined_fraction allows ({allowed:g}). For example {example}: {dropped[example]}"
        )
    if not usable:
        summary = f" ({reasons})" if reasons else ""
        raise DataError(f"No pairs are left{summary}. reports/quarantine.jsonl lists the records that were left out.")


def _fields(video: Video, settings: Data) -> Fields:
    names = video.fields if settings.text_fields is None else settings.text_fields
    return tuple((name, video.fields[name]) for name in names if name in video.fields)


def _sides(pair: Pair) -> tuple[Side, ...]:
    return (pair.query, pair.target, *pair.negatives)


def _remove_unfinished(prepared: Path) -> None:
    """Removes temporary folders of runs that were killed while writing; their links would keep old shards on the disk."""
    for folder in orphans_of(prepared):
        shutil.rmtree(folder, ignore_errors=True)


def _report(prepared: Prepared, pairs: Sequence[Pair], splits: Sequence[str], dropped: Dropped) -> PreprocessingReport:
    store = prepared.store
    grids = Counter("x".join(str(size) for size in grid) for grid in store.grids.tolist())
    by_decoder = Counter(store.decoders)
    usual = max(by_decoder, key=lambda name: by_decoder[name], default="")
    others = [(video, decoder) for video, decoder in zip(store.video_ids, store.decoders, strict=True) if decoder != usual]
    return PreprocessingReport(
        items=len(prepared),
        texts=len(prepared) - len(store),
        videos=len(store),
        pairs=count_pairs(pairs, splits),
        megabytes=round(store.bytes / 1e6, 3),
        videos_by_grid=dict(grids),
        videos_by_decoder=dict(sorted(by_decoder.items())),
        decoder_of=dict(others[:NAMED]),
        dropped=dropped,
    )
