"""The datasets that MLflow's page of a run shows."""

import json

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.registry.run_notes import SHORT_HASH, TrackedData


def training_inputs(data: TrackedData) -> list[DatasetInput]:
    """Returns the train and validation splits as dataset inputs of a run. Their digest is the data version."""
    source = {"uri": "data.dvc", "version": data.version}
    splits = [("train", "training", data.train_pairs), ("validation", "validation", data.validation_pairs)]
    return [
        _input(split, data.version, context, source, {"pairs": pairs, "videos of all splits": data.videos})
        for split, context, pairs in splits
        if pairs
    ]


def evaluation_input(evaluation: EvaluationReport) -> DatasetInput:
    """Returns the test split as a dataset input. Its digest is the hash of the evaluation data, by which models are comparable."""
    profile = {"queries": evaluation.queries, "items": evaluation.corpus}
    return _input(evaluation.split, evaluation.data.hash, "evaluation", {"uri": "prepared"}, profile)


def _input(name: str, digest: str, context: str, source: dict[str, str], profile: dict[str, int]) -> DatasetInput:
    dataset = Dataset(name, digest[:SHORT_HASH], "local", json.dumps(source), profile=json.dumps(profile))
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])
