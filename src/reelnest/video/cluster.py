"""Decoding on a Dask cluster, for more videos than one machine decodes in time.

On one machine, threads with one decoder process each (`decoder.in_parallel`) are the default: they start in a third of a second and need
no scheduler or worker processes.

All machines of a cluster share the file system. Workers read the videos and write the decoded frames into the caller's folder; messages
carry file names only. Dask pickles its messages, so use it on a trusted network only.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client, Future, KilledWorker, as_completed
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError

from reelnest.errors import DataError, VideoError
from reelnest.records.segments import Segment
from reelnest.settings import Preprocess
from reelnest.video.decoder import Decoder, Limits
from reelnest.video.frames import DecodingJob, Frames, FrameSettings
from reelnest.video.vision_spec import VisionSpec

CHUNK = 16
"""Videos per task. Many share the start of one decoder; few spread evenly and are cheap to repeat when a worker is lost."""
CONNECT_SECONDS = 30
WORKERS_SECONDS = 60
POLL_SECONDS = 0.02
MOST_LOSSES = 5
"""How often the connection to the scheduler may be lost, as if it is restarted, before decoding stops."""

Times = tuple[float, float | None] | None
"""The start and end of a segment."""
Write = Callable[[Path, str, Frames], object]
"""Writes the frames of a key into a folder. It is pickled by name, so it must be a module-level function."""
Decode = Callable[[list[tuple[str, list[str], Times]]], list[tuple[str, str | None, str]]]
"""Decodes the videos of a task: keys, files and times to keys, reasons and texts of errors."""

log = logging.getLogger(__name__)


def decode_on_cluster(
    address: str,
    jobs: Sequence[DecodingJob],
    settings: FrameSettings,
    limits: Limits,
    folder: Path,
    write: Write,
    adopt: Callable[[str], bool],
) -> Iterator[tuple[str, VideoError | None]]:
    """Decodes `jobs` on the cluster's workers. Yields each key when it is done, with its error or None.

    A worker writes a video's frames into `folder` with `write`. `adopt` then registers them here and returns whether they exist. Dask
    repeats the tasks of lost workers. If the scheduler is restarted, the rest of the jobs are submitted again.

    Raises DataError if the cluster cannot be reached, has no workers, loses them again and again, or does not share this file system.
    """
    spill = str(folder.absolute())
    described = {"sampling": settings.sampling.model_dump(), "vision": asdict(settings.vision)}
    decode = partial(_decode_chunk, settings=described, limits=asdict(limits), spill=spill, write=write)
    undone = {job.key: job for job in jobs}
    for _ in range(MOST_LOSSES + 1):
        with _connected(address) as client:
            try:
                for key, reason, text in _results(client, address, list(undone.values()), decode):
                    if reason is None and not adopt(key):
                        raise DataError(
                            f"preprocess.scheduler: a worker of {address} decoded a video into {spill}, but it is not there. "
                            "The cluster must share this file system under the same path."
                        )
                    del undone[key]
                    yield key, None if reason is None else VideoError(reason, text)
                return
            except (FutureCancelledError, CommClosedError):
                log.warning("the connection to the Dask scheduler at %s was lost; %s videos are submitted again", address, len(undone))
    raise DataError(
        f"preprocess.scheduler: the connection to the Dask scheduler at {address} was lost {MOST_LOSSES + 1} times. See its log; what was"
        " decoded is cached, so run the command again."
    )


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    """A client of the scheduler, which has workers. Raises DataError."""
    for name in ("distributed", "distributed.client"):  # of a lost connection it logs many tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        advice = "Start it, or set scheduler to null."
        raise DataError(f"preprocess.scheduler: no Dask scheduler responds at {address} ({error}). {advice}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except TimeoutError as error:
            advice = f"Start some: `dask worker {address}`."
            raise DataError(f"preprocess.scheduler: the scheduler at {address} has no workers. {advice}") from error
        yield client


def _results(client: Client, address: str, jobs: Sequence[DecodingJob], decode: Decode) -> Iterator[tuple[str, str | None, str]]:
    """Yields the key of each job with the reason and the text of its error. Raises DataError if a task ends each worker that takes it."""
    named = [(job.key, [str(file.absolute()) for file in job.files], _times(job.segment)) for job in jobs]
    chunks = [named[start : start + CHUNK] for start in range(0, len(named), CHUNK)]
    futures = client.map(decode, chunks, pure=False)
    first_files = {future.key: chunk[0][1][0] for future, chunk in zip(futures, chunks, strict=True)}
    for future in _completed(client, address, futures):
        try:
            yield from future.result()
        except KilledWorker as error:
            raise DataError(
                f"preprocess.scheduler: several workers of {address} ended while they decoded the {CHUNK} videos from"
                f" {first_files[future.key]} on. Give them more memory, see their logs, and run the command again."
            ) from error
        future.release()


def _completed(client: Client, address: str, futures: "Sequence[Future[Any]]") -> "Iterator[Future[Any]]":
    """Yields the futures as they are done. Raises DataError if there is no worker for WORKERS_SECONDS."""
    completed, last = as_completed(futures, loop=client.loop), time.monotonic()
    while completed.count():
        if completed.has_ready():
            yield from completed.next_batch(block=False)
            last = time.monotonic()
        elif time.monotonic() - last < WORKERS_SECONDS or client.scheduler_info()["workers"]:
            time.sleep(POLL_SECONDS)
        else:
            advice = f"Start some, `dask worker {address}`, and run the command again; what was decoded is cached."
            raise DataError(f"preprocess.scheduler: the scheduler at {address} has lost all its workers. {advice}")


def _times(segment: Segment | None) -> Times:
    return None if segment is None else (segment.start, segment.end)


def _decode_chunk(
    jobs: list[tuple[str, list[str], Times]], *, settings: dict[str, Any], limits: dict[str, Any], spill: str, write: Write
) -> list[tuple[str, str | None, str]]:
    """Runs on a worker. Returns (key, reason, text) for each video; reason is None if it was decoded."""
    results: list[tuple[str, str | None, str]] = []
    frame_settings = FrameSettings(Preprocess.model_validate(settings["sampling"]), VisionSpec.of(settings["vision"]))
    with Decoder(Limits(**limits)) as decoder:
        for key, files, times in jobs:
            segment = None if times is None else Segment(*times)
            try:
                write(Path(spill), key, decoder.frames([Path(file) for file in files], frame_settings, segment))
                results.append((key, None, ""))
            except VideoError as error:
                results.append((key, error.reason, str(error)))
    return results
