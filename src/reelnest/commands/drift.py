"""How far the data of this workspace is from what the champion was trained on, and what the champion finds in it.

Usage, as `reelnest drift` does it: `python -m reelnest.commands.drift VERSION DATA [--before FOLDER]`, after `preprocess`. VERSION is the
champion's number, DATA names the workspace's data, FOLDER holds the records of what the champion was trained on, and the files of its
sample (`sampled_videos`). Writes `reports/drift.json` and `reports/drift.html`, and adds both to the champion's run in MLflow.
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
from reelnest.records.changes import Contents, pair_texts, read_contents, summarise, video_texts
from reelnest.records.formats import TEXT_FIELDS, Video, pair_kind, video_files
from reelnest.registry.drift_log import ChampionsRun, Figures
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
SHOWN = 5
"""New texts and videos that are least like any old one."""
TEXTS, VIDEO_TEXTS, SECONDS, KINDS = "length of texts", "length of video texts", "seconds of videos", "pair kinds"
TEXT_VECTORS, VIDEO_VECTORS, RETRIEVAL = "embeddings of texts", "embeddings of videos", "retrieval"
NO_VALUES = "fewer than two values on one side"

log = logging.getLogger("reelnest.commands.drift")  # __name__ is __main__ where it is started


def run(workspace: Workspace, params: Params, number: str, data: str, before: Path | None) -> None:
    """Raises RegistryError where the version or its model is gone, DataError where `prepared/` or a record file is missing."""
    champions_run = ChampionsRun(params, number)
    model_folder = fetch_model(params, f"models:/{params.registration.name}/{number}", workspace.work / "models").folder
    found = _Found(params)
    if before is not None:
        _compare_data(found, workspace, before, model_folder)
    quality = _quality(found, workspace, params, champions_run, model_folder)
    report = found.report() | {
        "champion": {"name": params.registration.name, "version": int(number)},
        "data": data,
        "compared_data": before is not None,
        "quality": quality,
    }
    files = [workspace.reports / name for name in (REPORT, PAGE)]
    write_json(files[0], report)
    write_drift_page(files[1], report)
    effects = {one["measure"]: one["effect"] for one in report["measures"]}
    kept = champions_run.keep_report(data, report["headline"], effects, files)
    if kept is None:
        log.warning("the champion's run was deleted from MLflow: the report stands in reports/ alone")
    else:
        write_json(files[0], report | {"mlflow": asdict(kept)})
    log.info("drift: %s", report["headline"])


def sampled_videos(videos: Sequence[Video], params: Params) -> list[Video]:
    """Those of a version that are opened and encoded: the same ones each time."""
    chosen = set(sampled([video.video_id for video in videos], params.drift.sample))
    return [video for video in videos if video.video_id in chosen]


class _Found:
    """What the report is made of."""

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
        self.unlike[measure] = [{"item": names[row], "cosine": cosine} for row, cosine in least_alike(before, after, SHOWN)]

    def report(self) -> dict[str, Any]:
        verdicts = decide_drift(self.shifts, self.settings.confidence)
        drifted = [one.shift.measure for one in verdicts if one.drifted]
        return {
            "settings": self.settings.model_dump(mode="json"),
            "headline": f"{len(drifted)} of {len(verdicts)} measures drifted: {', '.join(drifted)}" if drifted else "No drift was shown",
            "drifted": drifted,
            "measures": [{**asdict(one.shift), "adjusted": one.adjusted, "drifted": one.drifted} for one in verdicts],
            "not_measured": self.not_measured,
            "distributions": self.distributions,
            "pair_kinds": self.kinds,
            "unlike": self.unlike,
        }


def _compare_data(found: _Found, workspace: Workspace, before: Path, model_folder: Path) -> None:
    params = found.params
    folders = {"before": before, "after": workspace.data}
    fractions = params.data.validation_fraction, params.data.test_fraction
    sides = {side: read_contents(folder, {}, *fractions) for side, folder in folders.items()}
    found.add_numbers(TEXTS, *(pair_texts(side) for side in sides.values()))
    found.add_numbers(VIDEO_TEXTS, *(video_texts(side) for side in sides.values()))
    found.kinds = {side: dict(Counter(pair_kind(query.kind, target.kind) for query, target in one.pairs)) for side, one in sides.items()}
    found.add(KINDS, counts_shift(KINDS, found.kinds["before"], found.kinds["after"], params.drift.margin))

    model = load(model_folder, limits=Limits.of(params.validation))
    texts = {side: sampled(_queries(one), params.drift.sample) for side, one in sides.items()}
    vectors = {side: model.encode_texts(some, batch_size=params.evaluate.batch_size) for side, some in texts.items()}
    found.add_vectors(TEXT_VECTORS, vectors["before"], vectors["after"], texts["after"])
    seen = {side: _Seen(params, model, folders[side], list(one.videos.values())) for side, one in sides.items()}
    found.add_numbers(SECONDS, seen["before"].seconds, seen["after"].seconds)
    found.add_vectors(VIDEO_VECTORS, seen["before"].vectors, seen["after"].vectors, seen["after"].ids)
    model.close()


def _queries(contents: Contents) -> list[str]:
    """Each pair is searched both ways round."""
    return list(dict.fromkeys(side.value for key in contents.pairs for side in key if side.kind == "text"))


class _Seen:
    """The sample's videos, decoded and encoded as the model reads them. What cannot be decoded is left out, as in training."""

    def __init__(self, params: Params, model: SavedModel, folder: Path, videos: Sequence[Video]) -> None:
        names = TEXT_FIELDS if model.text_fields is None else model.text_fields

        def look(decoder: Decoder, video: Video) -> tuple[float, Frames]:
            files = video_files(video, folder)
            return decoder.inspect(files).seconds, decoder.frames(files, model.frame_settings)

        self.ids: list[str] = []
        self.seconds: list[float] = []
        chunks = [np.empty((0, model.dims[-1]), np.float32)]
        results = in_parallel(sampled_videos(videos, params), look, Limits.of(params.validation))
        while batch := list(islice(results, params.evaluate.batch_size)):
            good = [(video, *looked) for video, looked in batch if not isinstance(looked, VideoError)]
            self.ids += [video.video_id for video, _, _ in good]
            # A list of frames has no duration of its own.
            self.seconds += [seconds for video, seconds, _ in good if video.path is not None]
            texts = [fields_text(tuple((name, video.fields[name]) for name in names if name in video.fields)) for video, _, _ in good]
            entries = [Entry("target", text, frames) for text, (_, _, frames) in zip(texts, good, strict=True)]
            chunks.append(model.encode(entries, batch_size=params.evaluate.batch_size))
        self.vectors = np.concatenate(chunks)


def _quality(found: _Found, workspace: Workspace, params: Params, champions_run: ChampionsRun, model_folder: Path) -> dict[str, Any] | None:
    """The champion's figures on this test split beside those that it was registered with; None where there is nothing to search."""
    metric, confidence = params.registration.metric, params.drift.confidence
    now = _figures_now(found, workspace, params, champions_run, model_folder)
    if now is None:
        return None
    then = champions_run.registered_figures()
    if then is None:
        found.not_measured[RETRIEVAL] = "the figures that the champion was registered with are gone from its run in MLflow"
    else:
        width = int(now.table["dim"].max())
        earlier, values = (one.table.loc[one.table["dim"] == width, metric].to_numpy() for one in (then, now))
        found.add(RETRIEVAL, fall(RETRIEVAL, earlier, values, params.registration.margin))
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


def _figures_now(found: _Found, workspace: Workspace, params: Params, champions_run: ChampionsRun, model_folder: Path) -> Figures | None:
    """From the champion's run where they were measured before, by this code; measured and kept there else."""
    prepared = Prepared.open(workspace.prepared)
    if not len(prepared.pairs(SPLIT)):
        found.not_measured[RETRIEVAL] = f"the data has no pairs in the {SPLIT} split"
        return None
    expected, code = data_hash(retrieval_sets(prepared, SPLIT), prepared), evaluation_code_hash(params.evaluate.depth)
    known = champions_run.figures(expected)
    if known is not None and known.code == code:
        return known
    with TemporaryDirectory(prefix="reelnest-") as scratch:
        out = Path(scratch) / QUERY_METRICS_FILE
        try:
            measure_model(workspace, params, model_folder, expected, out)
        except CannotMeasureError as error:
            raise RegistryError(f"The champion on the {SPLIT} split of the new data: {error}") from error
        if champions_run.is_there:
            champions_run.keep_figures(expected, out)
        return Figures(pd.read_parquet(out), expected)


def _figure(figures: Figures, dim: int, metric: str, confidence: float) -> dict[str, float] | None:
    values = figures.table.loc[figures.table["dim"] == dim, metric].to_numpy()
    if not len(values):
        return None
    low, high = bootstrap_intervals({metric: values}, confidence)[metric]
    return {"value": float(values.mean()), "low": low, "high": high}


def _queries_of(figures: Figures) -> int:
    return int((figures.table["dim"] == figures.table["dim"].max()).sum())


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reelnest.commands.drift", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("version")
    parser.add_argument("data")
    parser.add_argument("--before", type=Path)
    asked = parser.parse_args()
    prepare_process()
    workspace = Workspace()
    try:
        run(workspace, load_params(workspace.params), asked.version, asked.data, asked.before)
    except ReelnestError as error:
        sys.stderr.write(f"reelnest: error: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
