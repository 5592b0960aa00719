"""Compares the data of this workspace with the champion's training data, and evaluates the champion on it.

Usage, as `reelnest drift` does it: `python -m reelnest.commands.drift VERSION DATA [--before FOLDER]`, after `preprocess`. VERSION is the
champion's number, DATA is a name for the workspace's data, and FOLDER has the records of the champion's data and the files of their sample
(`sampled_videos`). Writes `reports/drift.json` and `reports/drift.html`, and adds both to the champion's run in MLflow.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reelnest.atomic_files import write_json
from reelnest.drift.measures import Shift, counts_shift, decide_drift, fall, histogram, least_alike, numbers_shift, sampled, vectors_shift
from reelnest.drift.page import write_drift_page
from reelnest.encoder.saved import SavedModel, load
from reelnest.errors import ReelnestError, RegistryError, VideoError
from reelnest.evaluation.by_query import QUERY_METRICS_FILE, data_hash
from reelnest.evaluation.retrieval_sets import retrieval_sets
from reelnest.evaluation.significance import bootstrap_intervals
from reelnest.launch.command import prepare_process
from reelnest.progress import Activity
from reelnest.records.changes import Contents, pair_texts, read_contents, summarise, video_texts
from reelnest.records.formats import TEXT_FIELDS, Video, pair_kind, video_files
from reelnest.registry.drift_log import ChampionRun, StoredMetrics
from reelnest.registry.versions.fetched_model import fetch_model
from reelnest.registry.versions.measuring import CannotMeasureError
from reelnest.settings import Params, load_params
from reelnest.stages.evaluation_code import evaluation_code_hash
from reelnest.stages.evaluation_inputs import SPLIT
from reelnest.stages.measure import measure_model
from reelnest.stages.workspace import Workspace
from reelnest.store.entries import Entry
from reelnest.store.prepared import Prepared, fields_text
from reelnest.video.decoder import Decoder, Limits, in_parallel
from reelnest.video.frames import Frames

REPORT, PAGE = "drift.json", "drift.html"
LEAST_ALIKE = 5
"""How many new texts and videos the report lists, those least similar to any old one."""
TEXTS, VIDEO_TEXTS, SECONDS, KINDS = "length of texts", "length of video texts", "seconds of videos", "pair kinds"
TEXT_VECTORS, VIDEO_VECTORS, RETRIEVAL = "embeddings of texts", "embeddings of videos", "retrieval"
NO_VALUES = "fewer than two values on one side"

log = logging.getLogger("reelnest.commands.drift")  # __name__ would be __main__


def run(workspace: Workspace, params: Params, number: str, data: str, before: Path | None) -> None:
    """Measures drift. Raises RegistryError if the version or its model is missing, DataError if `prepared/` or a record file is missing."""
    champions_run = ChampionRun(params, number)
    model_folder = fetch_model(params, f"models:/{params.registration.name}/{number}", workspace.work / "models").folder
    measures = _DriftMeasures(params)
    if before is not None:
        _compare_data(measures, workspace, before, model_folder)
    quality = _quality(measures, workspace, params, champions_run, model_folder)
    report = measures.report() | {
        "champion": {"name": params.registration.name, "version": int(number)},
        "data": data,
        "compared_data": before is not None,
        "quality": quality,
    }
    files = [workspace.reports / name for name in (REPORT, PAGE)]
    write_json(files[0], report)
    write_drift_page(files[1], report)
    effects = {entry["measure"]: entry["effect"] for entry in report["measures"]}
    logged = champions_run.log_report(data, report["headline"], effects, files)
    if logged is None:
        log.warning("the champion's run was deleted from MLflow, so the report is only in reports/")
    else:
        write_json(files[0], report | {"mlflow": asdict(logged)})
    log.info("drift: %s", report["headline"])


def sampled_videos(videos: Sequence[Video], params: Params) -> list[Video]:
    """Returns the videos that are decoded and encoded: the same sample each time."""
    chosen = set(sampled([video.video_id for video in videos], params.drift.sample))
    return [video for video in videos if video.video_id in chosen]


class _DriftMeasures:
    """Collects the measurements of the report."""

    def __init__(self, params: Params) -> None:
        self.params, self.settings = params, params.drift
        self.shifts: list[Shift] = []
        self.not_measured: dict[str, str] = {}
        self.distributions: dict[str, Any] = {}
        self.kinds: dict[str, dict[str, int]] = {}
        self.unlike: dict[str, list[dict[str, Any]]] = {}

    def add(self, measure: str, shift: Shift | None) -> None:
        if shift is None:
            self.not_measured[measure] = NO_VALUES
        else:
            self.shifts.append(shift)

    def add_numbers(self, measure: str, before: Sequence[float], after: Sequence[float]) -> None:
        self.add(measure, numbers_shift(measure, before, after, self.settings.margin))
        if before and after:
            sides = {"before": summarise(before), "after": summarise(after)}
            self.distributions[measure] = {"summary": sides, "histogram": histogram(before, after)}

    def add_vectors(self, measure: str, before: NDArray[np.float32], after: NDArray[np.float32], names: Sequence[str]) -> None:
        self.add(measure, vectors_shift(measure, before, after, self.settings.margin))
        self.unlike[measure] = [{"item": names[row], "cosine": cosine} for row, cosine in least_alike(before, after, LEAST_ALIKE)]

    def report(self) -> dict[str, Any]:
        verdicts = decide_drift(self.shifts, self.settings.confidence)
        drifted = [verdict.shift.measure for verdict in verdicts if verdict.drifted]
        return {
            "settings": self.settings.model_dump(mode="json"),
            "headline": f"{len(drifted)} of {len(verdicts)} measures drifted: {', '.join(drifted)}" if drifted else "No drift was shown",
            "drifted": drifted,
            "measures": [{**asdict(verdict.shift), "adjusted": verdict.adjusted, "drifted": verdict.drifted} for verdict in verdicts],
            "not_measured": self.not_measured,
            "distributions": self.distributions,
            "pair_kinds": self.kinds,
            "unlike": self.unlike,
        }


def _compare_data(measures: _DriftMeasures, workspace: Workspace, before: Path, model_folder: Path) -> None:
    params = measures.params
    folders = {"before": before, "after": workspace.data}
    fractions = params.data.validation_fraction, params.data.test_fraction
    sides = {side: read_contents(folder, {}, *fractions) for side, folder in folders.items()}
    measures.add_numbers(TEXTS, *(pair_texts(side) for side in sides.values()))
    measures.add_numbers(VIDEO_TEXTS, *(video_texts(side) for side in sides.values()))
    measures.kinds = {
        side: dict(Counter(pair_kind(query.kind, target.kind) for query, target in contents.pairs)) for side, contents in sides.items()
    }
    measures.add(KINDS, counts_shift(KINDS, measures.kinds["before"], measures.kinds["after"], params.drift.margin))

    model = load(model_folder, limits=Limits.of(params.validation))
    texts = {side: sampled(_queries(contents), params.drift.sample) for side, contents in sides.items()}
    vectors = {side: model.encode_texts(some, batch_size=params.evaluate.batch_size) for side, some in texts.items()}
    measures.add_vectors(TEXT_VECTORS, vectors["before"], vectors["after"], texts["after"])
    seen = {side: _EncodedSample(params, model, folders[side], list(contents.videos.values())) for side, contents in sides.items()}
    measures.add_numbers(SECONDS, seen["before"].seconds, seen["after"].seconds)
    measures.add_vectors(VIDEO_VECTORS, seen["before"].vectors, seen["after"].vectors, seen["after"].ids)
    model.close()


def _queries(contents: Contents) -> list[str]:
    """Returns all texts of the pairs, since each pair is searched in both directions."""
    return list(dict.fromkeys(side.value for key in contents.pairs for side in key if side.kind == "text"))


class _EncodedSample:
    """The sampled videos, decoded and encoded with the model's settings. Videos that cannot be decoded are left out, as in training."""

    def __init__(self, params: Params, model: SavedModel, folder: Path, videos: Sequence[Video]) -> None:
        names = TEXT_FIELDS if model.text_fields is None else model.text_fields

        def decode(decoder: Decoder, video: Video) -> tuple[float, Frames]:
            files = video_files(video, folder)
            info = decoder.inspect(files, segment=video.segment)
            return info.seconds, decoder.frames(files, model.frame_settings, video.segment)

        self.ids: list[str] = []
        self.seconds: list[float] = []
        chunks = [np.empty((0, model.dims[-1]), np.float32)]
        results = in_parallel(sampled_videos(videos, params), decode, Limits.of(params.validation))
        while batch := list(islice(results, params.evaluate.batch_size)):
            good = [(video, *decoded) for video, decoded in batch if not isinstance(decoded, VideoError)]
            self.ids += [video.video_id for video, _, _ in good]
            # A list of frames has no duration.
            self.seconds += [seconds for video, seconds, _ in good if video.path is not None]
            texts = [fields_text(tuple((name, video.fields[name]) for name in names if name in video.fields)) for video, _, _ in good]
            entries = [Entry("target", text, frames) for text, (_, _, frames) in zip(texts, good, strict=True)]
            chunks.append(model.encode(entries, batch_size=params.evaluate.batch_size))
        self.vectors = np.concatenate(chunks)


def _quality(
    measures: _DriftMeasures, workspace: Workspace, params: Params, champions_run: ChampionRun, model_folder: Path
) -> dict[str, Any] | None:
    """Returns the champion's metrics on this test split and those of its registration; None if the split has no pairs."""
    metric, confidence = params.registration.metric, params.drift.confidence
    now = _figures_now(measures, workspace, params, champions_run, model_folder)
    if now is None:
        return None
    then = champions_run.registered_metrics()
    if then is None:
        measures.not_measured[RETRIEVAL] = "the metrics of the champion's registration are missing from its run in MLflow"
    else:
        width = int(now.table["dim"].max())
        earlier, values = (figures.table.loc[figures.table["dim"] == width, metric].to_numpy() for figures in (then, now))
        measures.add(RETRIEVAL, fall(RETRIEVAL, earlier, values, params.registration.margin))
    return {
        "metric": metric,
        "split": SPLIT,
        "same_questions": then is not None and then.data_hash == now.data_hash,
        "same_code": then is None or then.code == now.code,
        "queries": {"before": None if then is None else _queries_of(then), "after": _queries_of(now)},
        "dims": [
            {"dim": dim, "before": None if then is None else _figure(then, dim, metric, confidence), "after": figure}
            for dim in sorted(set(now.table["dim"].tolist()))
            if (figure := _figure(now, dim, metric, confidence)) is not None
        ],
    }


def _figures_now(
    measures: _DriftMeasures, workspace: Workspace, params: Params, champions_run: ChampionRun, model_folder: Path
) -> StoredMetrics | None:
    """Returns the champion's metrics on this test split: those in its run if this code made them, else new ones, which are added to it."""
    prepared = Prepared.open(workspace.prepared)
    if not len(prepared.pairs(SPLIT)):
        measures.not_measured[RETRIEVAL] = f"the data has no pairs in the {SPLIT} split"
        return None
    expected, code = data_hash(retrieval_sets(prepared, SPLIT), prepared), evaluation_code_hash(params.evaluate.depth)
    known = champions_run.metrics(expected)
    if known is not None and known.code == code:
        return known
    with TemporaryDirectory(prefix="measuring-", dir=workspace.work) as scratch:  # a job on another machine may write to it
        out = Path(scratch) / QUERY_METRICS_FILE
        try:
            measure_model(workspace, params, model_folder, expected, out)
        except CannotMeasureError as error:
            raise RegistryError(f"The champion on the {SPLIT} split of the new data: {error}") from error
        if champions_run.is_there:
            champions_run.log_metrics(expected, out)
        return StoredMetrics(pd.read_parquet(out), expected)


def _figure(figures: StoredMetrics, dim: int, metric: str, confidence: float) -> dict[str, float] | None:
    values = figures.table.loc[figures.table["dim"] == dim, metric].to_numpy()
    if not len(values):
        return None
    low, high = bootstrap_intervals({metric: values}, confidence)[metric]
    return {"value": float(values.mean()), "low": low, "high": high}


def _queries_of(figures: StoredMetrics) -> int:
    return int((figures.table["dim"] == figures.table["dim"].max()).sum())


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reelnest.commands.drift", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("version")
    parser.add_argument("data")
    parser.add_argument("--before", type=Path)
    arguments = parser.parse_args()
    prepare_process()
    workspace = Workspace()
    try:
        with Activity("drift"):
            run(workspace, load_params(workspace.params), arguments.version, arguments.data, arguments.before)
    except ReelnestError as error:
        sys.stderr.write(f"reelnest: error: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
