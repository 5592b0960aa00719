"""Checks the inputs of evaluation and registration before any process starts. Nothing here imports torch or MLflow, which takes seconds."""

from collections.abc import Sequence

from reelnest.artifacts.evaluation_report import EvaluationReport
from reelnest.encoder.saved_settings import read_settings
from reelnest.errors import ConfigError, DataError, ModelError
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE, stored_behaviour
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared

SPLIT = "test"


def check_evaluation(workspace: Workspace, params: Params) -> None:
    """Raises DataError without prepared data or test pairs, ModelError without a model, ConfigError for invalid extra dims."""
    check_test_pairs(Prepared.open(workspace.prepared), workspace)
    _check_candidate(workspace)
    stored = read_settings(workspace.candidate)
    check_extra_dims(stored["model"]["dims"], params.evaluate.extra_dims)
    stored_behaviour(workspace.reports / BEHAVIOUR_FILE)


def check_registration(workspace: Workspace) -> None:
    """Raises ModelError without a trained model, ArtifactError without its evaluation."""
    _check_candidate(workspace)
    EvaluationReport.read(workspace.reports)


def _check_candidate(workspace: Workspace) -> None:
    if not workspace.candidate.is_dir():
        raise ModelError(f"{workspace.candidate} is missing. Run `reelnest train`.")


def check_test_pairs(prepared: Prepared, workspace: Workspace) -> None:
    """Raises DataError if the test split is empty."""
    if not len(prepared.pairs(SPLIT)):
        raise DataError(
            f"{workspace.prepared / 'pairs.parquet'}: no pairs in the test split to evaluate on."
            ' Raise data.test_fraction in params.yaml, or set "split": "test" for some pairs in data/pairs.jsonl.'
        )


def check_extra_dims(trained: Sequence[int], extra: Sequence[int]) -> None:
    """Raises ConfigError for an extra dim that is not below the largest trained dim."""
    if too_wide := [dim for dim in extra if dim >= trained[-1]]:
        raise ConfigError(
            f"params.yaml: evaluate.extra_dims: {too_wide[0]} is not below {trained[-1]}, the largest dim that this model was trained for. "
            "Remove it."
        )
