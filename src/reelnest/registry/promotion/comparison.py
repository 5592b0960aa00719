"""A comparison of a new evaluation with earlier ones, query by query: the champion's, and that of the last run on the same data.

It shows the state of MLflow at the time of the evaluation and decides nothing. The gate compares again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from reelnest.artifacts.evaluation_report import ComparedWith, Difference, NotComparedWith
from reelnest.errors import RegistryError
from reelnest.evaluation.by_query import CODE, KEY, QUERY_METRICS_FILE
from reelnest.evaluation.significance import bootstrap_intervals
from reelnest.registry.candidate import Candidate
from reelnest.registry.connection import connect
from reelnest.registry.known_versions import MODEL_HASH_TAG
from reelnest.registry.promotion.aliases import champion_of
from reelnest.registry.promotion.evaluation_log import ARTIFACT_FOLDER, DATA_HASH_TAG, gate_folder, stored_query_metrics
from reelnest.settings import Params

CHAMPION, PREVIOUS = "champion", "previous run"


@dataclass(frozen=True)
class _Earlier:
    run_id: str
    version: int | None
    by_query: pd.DataFrame


class _NotComparable(Exception):  # noqa: N818 (has the reason; it is not an error)
    pass


def compare(
    params: Params, candidate: Candidate, queries: pd.DataFrame, data_hash: str, no_test: str | None = None
) -> list[ComparedWith | NotComparedWith]:
    """Compares the candidate's metrics by query (`reports/queries.parquet`) with the champion's and the previous run's.

    The comparison covers the dims that both have, with the two-sided interval at `evaluate.confidence`. Metrics that are missing, on other
    data or unreadable give a reason instead of an error, because an evaluation does not depend on earlier ones. `no_test` is the reason why
    the metric cannot differ on this data; None if it can.
    """
    if no_test is not None:
        reason = f"{params.evaluate.choice_metric} is no test on this data, because {no_test}"
        return [NotComparedWith(what=what, reason=reason) for what in (CHAMPION, PREVIOUS)]
    if "mlflow" not in params.train.trackers:
        reason = "train.trackers in params.yaml does not include mlflow"
        return [NotComparedWith(what=what, reason=reason) for what in (CHAMPION, PREVIOUS)]
    finders: Mapping[str, Callable[[Params, Candidate, str], _Earlier]] = {CHAMPION: _champion, PREVIOUS: _previous_run}
    metric, confidence = params.evaluate.choice_metric, params.evaluate.confidence
    comparisons: list[ComparedWith | NotComparedWith] = []
    for what, find in finders.items():
        try:
            earlier = find(params, candidate, data_hash)
            if any(isinstance(before, ComparedWith) and before.run_id == earlier.run_id for before in comparisons):
                raise _NotComparable("it is the champion's run")
            differences = _differences(queries, earlier.by_query, metric, confidence)
            comparisons.append(
                ComparedWith(what=what, version=earlier.version, run_id=earlier.run_id, metric=metric, differences=differences)
            )
        except _NotComparable as problem:
            comparisons.append(NotComparedWith(what=what, reason=str(problem)))
        # requests raises OSErrors, pyarrow ValueErrors
        except (RegistryError, MlflowException, OSError, ValueError, KeyError) as error:
            reason = f"its metrics cannot be read from MLflow ({type(error).__name__}: {error})"
            comparisons.append(NotComparedWith(what=what, reason=reason))
    return comparisons


def _differences(ours: pd.DataFrame, theirs: pd.DataFrame, metric: str, confidence: float) -> tuple[Difference, ...]:
    """Returns ours minus theirs at each dim that both have.

    It resamples the differences by query, because a hard query is hard for both.
    """
    if ours.attrs.get(CODE) != theirs.attrs.get(CODE):
        raise _NotComparable("it was evaluated by another version of the code")
    new, old = (table.pivot(index=KEY, columns="dim", values=metric).sort_index() for table in (ours, theirs))
    if not new.index.equals(old.index):
        raise _NotComparable("it was evaluated on other queries")
    dims = sorted(set(map(int, new.columns)) & set(map(int, old.columns)))
    if not dims:
        raise _NotComparable("it has no dim in common with this model")
    by_dim = {dim: (new[dim] - old[dim]).to_numpy() for dim in dims}
    ends = bootstrap_intervals(by_dim, confidence=confidence)
    return tuple(Difference(dim=dim, value=float(by_dim[dim].mean()), low=ends[dim][0], high=ends[dim][1]) for dim in dims)


def _champion(params: Params, candidate: Candidate, data_hash: str) -> _Earlier:
    connect(params)
    champion = champion_of(params.registration.name)
    if champion is None:
        raise _NotComparable("there is none yet")
    version = f"version {champion.version}"
    if champion.tags.get(MODEL_HASH_TAG) == candidate.hash:
        raise _NotComparable(f"this model is the champion ({version})")
    by_query = stored_query_metrics(champion.run_id, f"{gate_folder(data_hash)}/{QUERY_METRICS_FILE}")
    if by_query is None:
        other_data = champion.tags.get(DATA_HASH_TAG) != data_hash
        raise _NotComparable(
            f"{version} was evaluated on other test data" if other_data else f"the run of {version} has no metrics by query"
        )
    return _Earlier(str(champion.run_id), int(champion.version), by_query)


def _previous_run(params: Params, candidate: Candidate, data_hash: str) -> _Earlier:
    """Returns the latest other run that was evaluated on this data."""
    experiment_id = connect(params)
    client = mlflow.MlflowClient()
    evaluated = client.search_runs([experiment_id], f"tags.`{DATA_HASH_TAG}` != ''", order_by=["attributes.start_time DESC"])
    others = [run for run in evaluated if run.info.run_id != candidate.run_id and run.data.tags.get(MODEL_HASH_TAG) != candidate.hash]
    if not others:
        raise _NotComparable("there is none yet")
    for run in others:
        if run.data.tags[DATA_HASH_TAG] == data_hash:
            by_query = stored_query_metrics(run.info.run_id, f"{ARTIFACT_FOLDER}/{QUERY_METRICS_FILE}")
            if by_query is not None:
                return _Earlier(run.info.run_id, None, by_query)
    raise _NotComparable("earlier runs were evaluated on other test data, or no longer have their metrics")
