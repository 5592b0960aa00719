"""What evaluation needs, checked before any process is started: nothing here imports torch, which takes seconds."""

from collections.abc import Sequence

from reelnest.encoder.saved_settings import read_settings
from reelnest.errors import ConfigError, DataError, ModelError
from reelnest.records.behaviour_tests import BEHAVIOUR_FILE, stored_behaviour
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace
from reelnest.store.prepared import Prepared

SPLIT = "test"


def check_evaluation(workspace: Workspace, params: Params) -> None:
    """Raises DataError without prepared data or test pairs, ModelError without a model, ConfigError for dims that it does not have."""
    check_test_pairs(Prepared.open(workspace.prepared), workspace)
    if not workspace.candidate.is_dir():
        raise ModelError(f"{workspace.candidate} is missing. Run `reelnest train`.")
    stored = read_settings(workspace.candidate)
    check_extra_dims(stored["model"]["dims"], params.evaluate.extra_dims)
    stored_behaviour(workspace.reports / BEHAVIOUR_FILE)


def check_test_pairs(prepared: Prepared, workspace: Workspace) -> None:
    """Raises DataError where there is nothing to evaluate on."""
    if not len(prepared.pairs(SPLIT)):
        raise DataError(
            f"{workspace.prepared / 'pairs.parquet'}: no pairs in the test split, so there is nothing to evaluate on."
            ' Raise data.test_fraction in params.yaml, or give pairs in data/pairs.jsonl "split": "test".'
        )


def check_extra_dims(trained: Sequence[int], extra: Sequence[int]) -> None:
    """Raises ConfigError for a dim that is no prefix of the model's vectors, or is its full width."""
    if too_wide := [dim for dim in extra if dim >= trained[-1]]:
        raise ConfigError(
            f"params.yaml: evaluate.extra_dims: {too_wide[0]} is not below {trained[-1]}, the largest dim that this model was trained for, "
            "which is the full width of its evaluation. Leave it out."
        )
