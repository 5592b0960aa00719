"""Evaluates a champion on the current test split, for the promotion gate: only its metrics by query.

Usage, as `reelnest register` does it: `accelerate launch … -m reelnest.launch.rank reelnest.stages.measure MODEL PREPARED OUT
DATA_HASH`
"""

import json
import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.atomic_files import atomic_write
from reelnest.backbones.registry import family_of
from reelnest.encoder.saved import load
from reelnest.encoder.saved_settings import SETTINGS_FILE, frame_settings
from reelnest.errors import DataError, RegistryError
from reelnest.evaluation.by_query import QUERY_METRICS_FILE, data_hash, metrics_by_query
from reelnest.evaluation.split_evaluation import embed_split
from reelnest.launch.command import launch_command
from reelnest.registry.versions.measuring import CannotMeasureError, ModelVersion, saved_model_of
from reelnest.settings import Params, load_params
from reelnest.stages import preprocess
from reelnest.stages.evaluate import join_processes
from reelnest.stages.evaluation_code import evaluation_code_hash
from reelnest.stages.evaluation_inputs import SPLIT
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared

LAST_LINES = 20

log = logging.getLogger(__name__)


def measure(workspace: Workspace, params: Params, evaluation: EvaluationReport, version: ModelVersion, folder: Path) -> None:
    """Writes the metrics by query of a registered model into `folder`, with the same launcher as an evaluation.

    If the model's preprocessing settings differ from those of `prepared/`, all videos are decoded again with its settings.
    `evaluation` is the challenger's (`reports/evaluation.json`). Raises RegistryError if other code made it, and CannotMeasureError if the
    model's files are missing or the evaluation fails.
    """
    if evaluation.code.hash != evaluation_code_hash(params.evaluate.depth):
        raise RegistryError(
            "reports/evaluation.json was made by another version of the code, or with another evaluate.depth. Run `reelnest evaluate`."
        )
    measure_model(workspace, params, saved_model_of(version, folder), evaluation.data.hash, folder / QUERY_METRICS_FILE)


def measure_model(workspace: Workspace, params: Params, model: Path, expected_data: str, out: Path) -> None:
    """Writes the metrics by query of a saved model to `out`. Raises CannotMeasureError if the evaluation fails."""
    prepared = prepared_for(workspace, params, model)
    command, environment = launch_command(params, workspace.params, __name__)
    arguments = [str(path.resolve()) for path in (model, prepared, out)]
    done = subprocess.run(
        [*command, *arguments, expected_data],
        cwd=workspace.root,
        env=environment,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        last_lines = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
        raise CannotMeasureError(f"its evaluation failed: {last_lines}")


def run(workspace: Workspace, params: Params, model_folder: Path, prepared_folder: Path, out: Path, expected_data: str) -> None:
    """Measures the model, on all processes that accelerate starts. Raises DataError if the hash of the test data is not `expected_data`."""
    state = join_processes(workspace, params)
    prepared = Prepared.open(prepared_folder)
    model = load(model_folder, device=state.device, precision=params.evaluate.precision)
    prepared.store.require(model.encoder.vision)
    split = embed_split(prepared, SPLIT, model.encoder, model.batcher, params.evaluate.batch_size)
    if data_hash(split.sets, prepared) != expected_data:
        raise DataError(f"{prepared_folder}: its test data differs from that of reports/evaluation.json. Run `reelnest evaluate`.")
    evaluation = split.evaluate(model.dims, params.evaluate.depth)  # the processes share the search
    if state.is_main_process:
        with atomic_write(out) as aside:
            metrics_by_query(evaluation, prepared, evaluation_code_hash(params.evaluate.depth)).to_parquet(aside, index=False)
    state.destroy_process_group()


def prepared_for(workspace: Workspace, params: Params, model: Path) -> Path:
    """Returns a folder with the data preprocessed for a saved model: `prepared/`, or a new one in `work/`."""
    stored = json.loads((model / SETTINGS_FILE).read_text(encoding="utf-8"))
    sampling = params.preprocess.model_copy(update=stored["preprocess"])
    fields = None if stored["text_fields"] is None else tuple(stored["text_fields"])
    vision = frame_settings(model).vision
    if sampling == params.preprocess and fields == params.data.text_fields and vision == family_of(params.model).vision:
        return workspace.prepared
    log.info("this model was trained with other preprocessing settings than those of prepared/: preprocessing the data for it")
    scratch = Workspace(workspace.work / "champion")
    scratch.root.mkdir(parents=True, exist_ok=True)
    for name in (workspace.data.name, workspace.reports.name):
        link = scratch.root / name
        link.unlink(missing_ok=True)
        link.symlink_to((workspace.root / name).resolve())
    data = params.data.model_copy(update={"text_fields": fields})
    preprocess.prepare(scratch, params.model_copy(update={"preprocess": sampling, "data": data}), vision)
    return scratch.prepared


def main(arguments: Sequence[str]) -> None:
    """Runs the stage on one rank. Raises as `run` does."""
    model, prepared, out = map(Path, arguments[:3])
    workspace = Workspace()
    run(workspace, load_params(workspace.params), model, prepared, out, expected_data=arguments[3])
