"""The evaluation in the candidate's MLflow run: metrics by dim for charts, and the report files."""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from reelnest.artifacts.evaluation_report import ALL, FLOATS, EvaluationReport
from reelnest.evaluation.metrics import logged_name
from reelnest.registry.candidate import Candidate, candidate_run
from reelnest.registry.connection import connect, error_type
from reelnest.registry.run_datasets import evaluation_input
from reelnest.registry.run_notes import NOTE_TAG, evaluated_note
from reelnest.settings import Params

METRICS_IN_A_REQUEST = 900  # MLflow accepts at most 1000
ARTIFACT_FOLDER = "evaluation"
DATA_HASH_TAG = "reelnest.evaluation_data_hash"
"""Tag of a run and of a version: the hash of its evaluation data. Metrics on different data are not compared."""


def evaluation_metrics(evaluation: EvaluationReport, timestamp: int) -> list[Metric]:
    """Returns the evaluation as MLflow metrics.

    `test/text_to_video/recall_at_10` has the dim as its step, so that MLflow charts quality by dim. `test/recall_at_10` is a single value
    for tables of runs: all queries, at the full width. Storage types and funnels have separate charts with the same steps, such as
    `test/all/int8/recall_at_10` and `test/all/funnel 16-128/recall_at_10`.
    """
    split, points = evaluation.split, []
    for result in evaluation.results:
        for metric, value in result.metrics.items():
            points.append(Metric(f"{split}/{result.pair_kind}/{logged_name(metric)}", value, timestamp, result.dim))
            if result.pair_kind == ALL and result.dim == evaluation.width:
                points.append(Metric(f"{split}/{logged_name(metric)}", value, timestamp, 0))
    for configuration in evaluation.configurations:
        funnel = [f"funnel {'-'.join(map(str, configuration.funnel))}"] if configuration.funnel else []
        chart = " ".join([*funnel, *([configuration.storage] if configuration.storage != FLOATS else [])])
        if chart:  # exact search over floats is logged above
            for metric, value in configuration.metrics.items():
                points.append(Metric(f"{split}/{ALL}/{chart}/{logged_name(metric)}", value, timestamp, configuration.dim))
    for outranked in evaluation.negatives_outranked:
        points.append(Metric(f"{split}/{outranked.pair_kind}/negatives_outranked", outranked.value, timestamp, outranked.dim))
    for dim, shares in evaluation.behaviour.passed_by_kind.items():
        points += [Metric(f"{split}/behaviour/{kind}", share, timestamp, int(dim)) for kind, share in shares.items()]
    return points


def log_evaluation(params: Params, candidate: Candidate, evaluation: EvaluationReport, files: Sequence[Path]) -> str:
    """Adds metrics and files to the candidate's run, and returns the run's id. Raises RegistryError if MLflow rejects them."""
    experiment_id = connect(params)
    client = mlflow.MlflowClient()
    try:
        run_id = candidate_run(candidate, experiment_id)
        metrics = evaluation_metrics(evaluation, int(time.time() * 1000))
        for start in range(0, len(metrics), METRICS_IN_A_REQUEST):
            client.log_batch(run_id, metrics=metrics[start : start + METRICS_IN_A_REQUEST])
        for file in files:
            client.log_artifact(run_id, str(file), ARTIFACT_FOLDER)
        client.log_inputs(run_id, [evaluation_input(evaluation)])
        note = client.get_run(run_id).data.tags.get(NOTE_TAG, "")
        client.set_tag(run_id, NOTE_TAG, evaluated_note(note, evaluation))
        # The tag is set last: later evaluations search for it, and find only complete runs.
        client.set_tag(run_id, DATA_HASH_TAG, evaluation.data.hash)
    except (MlflowException, OSError) as error:  # requests raises OSErrors
        raise error_type(error)(f"The evaluation cannot be logged to MLflow: {error}. The files in reports/ are complete.") from error
    return run_id


def gate_folder(data_hash: str) -> str:
    """Returns the folder of a run with the metrics by query for the gate. There is one for each evaluation data."""
    return f"gate/{data_hash[:16]}"


def stored_query_metrics(run_id: str | None, path: str) -> pd.DataFrame | None:
    """Returns a run's metrics by query; None if the run or the file is missing, or its upload was interrupted.

    Raises MlflowException if MLflow cannot be reached.
    """
    if run_id is None:
        return None
    try:
        files = mlflow.MlflowClient().list_artifacts(run_id, str(Path(path).parent))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if path not in [file.path for file in files]:
        return None
    with TemporaryDirectory(prefix="reelnest-") as folder:
        try:
            return pd.read_parquet(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=folder))
        except pa.ArrowInvalid:
            return None
