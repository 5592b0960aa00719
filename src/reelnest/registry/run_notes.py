"""What MLflow's pages show of an experiment and its runs besides settings and metrics: names and notes."""

from dataclasses import dataclass
from pathlib import Path

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.evaluation.metrics import METRICS, headline_names
from reelnest.settings import Params

NOTE_TAG = "mlflow.note.content"
KIND_TAG = "mlflow.experimentKind"
EVALUATION_HEADING = "## Evaluation"
SHORT_HASH = 8
TRAINING_RUNS = "#/experiments/{experiment}/runs?workflowType=machine_learning"
"""The address of the training runs, below MLflow's own."""

EXPERIMENT_TAGS = {
    # MLflow's page of an experiment otherwise opens on the traces of language model applications, of which there are none. Pages that go by
    # the address instead need `workflowType` in it (`TRAINING_RUNS`).
    KIND_TAG: "custom_model_development",
    NOTE_TAG: """**The steps of the `test/…` charts are dims**: `test/all/recall_at_1` at step 64 is Recall@1 at 64 dims.

- Each run is a training, with the evaluation of its model. A sweep is the parent of its trainings.
- To compare models by dim, select their runs and open the chart view. Each `test/…` chart then has one line for each model.
- The steps of `train/…` and `validation/…` are optimizer steps.
- `test/recall_at_1`, without `all`, is the single value at the full width, for the table of runs.
- A run is named after its model, its epochs, its data version (the hash in `data.dvc`), and a digest of its settings.
- `reelnest models` lists the registered models.""",
}
"""Tags of the experiment. One that is already set, such as a description that somebody edited, is not changed."""


@dataclass(frozen=True)
class TrackedData:
    """The data of a training, for the name, note and datasets of its run."""

    version: str
    """The hash in `data.dvc`; a digest of the prepared data if there is no such file."""
    train_pairs: int
    validation_pairs: int
    videos: int


def model_name(params: Params) -> str:
    """Returns the last part of `model.name_or_path`: the name of the model without that of its owner, or of its folder."""
    return Path(params.model.name_or_path).name


def run_name(params: Params, key: str, data: TrackedData | None) -> str:
    """Returns the name of a training's run, such as `tiny, 5 epochs, data 034d2c85, 785423a8`. `key` identifies the training."""
    version = [f"data {data.version[:SHORT_HASH]}"] if data is not None else []
    epochs = f"{params.train.epochs} epoch{'s' if params.train.epochs > 1 else ''}"
    return ", ".join([model_name(params), epochs, *version, key[:SHORT_HASH]])


def training_note(params: Params, data: TrackedData | None) -> str:
    """Returns the description of a training's run, before its evaluation."""
    train = params.train
    pairs = "" if data is None else f"{data.train_pairs:,} pairs, {data.videos:,} videos (data version `{data.version}`). "
    return (
        f"`{params.model.name_or_path}`, trained at dims {', '.join(map(str, params.model.dims))}. {pairs}"
        f"{train.epochs} epochs in batches of {train.batch_size}, learning rate {train.learning_rate:g}.\n\n"
        "The model of this run is the one that scored best on the validation split "
        f"({train.best_metric}). Its settings are under Parameters, and its files under Artifacts."
    )


def evaluated_note(note: str, evaluation: EvaluationReport) -> str:
    """Returns the note with the results on the test split in place of those of an earlier evaluation."""
    metrics = headline_names()
    titles = [METRICS[metric].title for metric in metrics]
    rows = [
        f"| {dim} | {' | '.join(f'{result.metrics[metric]:.3f}' for metric in metrics)} | {4 * int(dim):,} |"
        for dim, result in evaluation.by_dim.items()
    ]
    table = "\n".join([f"| dim | {' | '.join(titles)} | bytes a vector |", f"| ---: |{' ---: |' * (len(titles) + 1)}", *rows])
    recommended = "" if evaluation.choice is None else f" Recommended: **{evaluation.choice.name}**."
    return (
        f"{note.partition(EVALUATION_HEADING)[0].rstrip()}\n\n{EVALUATION_HEADING}\n\n"
        f"{evaluation.queries:,} queries among {evaluation.corpus:,} items of the {evaluation.split} split."
        f"{recommended} The page is `evaluation/evaluation.html` under Artifacts.\n\n{table}"
    ).lstrip()
