"""A new evaluation beside what came before it: the champion, and the last run on the same data, query by query.

MLflow changes without us, so what is found here is true of the moment at which it was asked. It decides nothing: the gate compares anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from reelnest.errors import RegistryError
from reelnest.evaluation.significance import bootstrap_intervals
from reelnest.registry.candidate import MODEL_HASH_TAG, Candidate
from reelnest.registry.connection import connect
from reelnest.registry.promotion.aliases import champion_of
from reelnest.registry.promotion.evaluation_log import (
    ARTIFACT_FOLDER,
    CODE,
    DATA_HASH_TAG,
    QUERY_METRICS_FILE,
    gate_folder,
    stored_query_metrics,
)
from reelnest.registry.promotion.gate import KEY, Difference
from reelnest.settings import Params

CHAMPION, PREVIOUS = "champion", "previous run"


@dataclass(frozen=True)
class Compared:
    """This evaluation minus an earlier one."""

    what: str
    """CHAMPION or PREVIOUS."""
    version: int | None
    run_id: str
    metric: str
    differences: tuple[Difference, ...]
    """At the dims that both have, with the two-sided interval at `evaluate.confidence`."""


@dataclass(frozen=True)
class NotCompared:
    """What there was nothing to compare with, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class _Earlier:
    run_id: str
    version: int | None
    figures: pd.DataFrame


class _Absent(Exception):  # noqa: N818 (says why there is nothing to compare with; no error)
    pass


def compare(params: Params, candidate: Candidate, queries: pd.DataFrame, data_hash: str) -> list[Compared | NotCompared]:
    """The candidate's figures by query (`reports/queries.parquet`) against the champion's and the previous run's.

    What is not there, was evaluated on other data, or cannot be read becomes a reason and never an error: an evaluation needs no past.
    """
    if "mlflow" not in params.train.trackers:
        reason = "train.trackers in params.yaml names no mlflow, which would know it"
        return [NotCompared(what, reason) for what in (CHAMPION, PREVIOUS)]
    finders: Mapping[str, Callable[[Params, Candidate, str], _Earlier]] = {CHAMPION: _champion, PREVIOUS: _previous_run}
    metric, confidence = params.evaluate.choice_metric, params.evaluate.confidence
    found: list[Compared | NotCompared] = []
    for what, find in finders.items():
        try:
            earlier = find(params, candidate, data_hash)
            if any(isinstance(other, Compared) and other.run_id == earlier.run_id for other in found):
                raise _Absent("it is the champion's run")
            differences = _differences(queries, earlier.figures, metric, confidence)
            found.append(Compared(what, earlier.version, earlier.run_id, metric, differences))
        except _Absent as absent:
            found.append(NotCompared(what, str(absent)))
        # requests' errors are OSErrors, pyarrow's ValueErrors
        except (RegistryError, MlflowException, OSError, ValueError, KeyError) as error:
            found.append(NotCompared(what, f"its figures cannot be read from MLflow ({type(error).__name__}: {error})"))
    return found


def _differences(ours: pd.DataFrame, theirs: pd.DataFrame, metric: str, confidence: float) -> tuple[Difference, ...]:
    """Ours minus theirs at each dim that both have, by resampling the queries' differences: a query that is hard is so for both."""
    if ours.attrs.get(CODE) != theirs.attrs.get(CODE):
        raise _Absent("it was evaluated by other code, which may count otherwise")
    new, old = (table.pivot(index=KEY, columns="dim", values=metric).sort_index() for table in (ours, theirs))
    if not new.index.equals(old.index):
        raise _Absent("it was evaluated on other queries")
    dims = sorted(set(map(int, new.columns)) & set(map(int, old.columns)))
    if not dims:
        raise _Absent("it has no dim in common with this model")
    by_dim = {dim: (new[dim] - old[dim]).to_numpy() for dim in dims}
    ends = bootstrap_intervals(by_dim, confidence=confidence)
    return tuple(Difference(dim, float(by_dim[dim].mean()), *ends[dim]) for dim in dims)


def _champion(params: Params, candidate: Candidate, data_hash: str) -> _Earlier:
    connect(params)
    champion = champion_of(params.registration.name)
    if champion is None:
        raise _Absent("there is none yet")
    version = f"version {champion.version}"
    if champion.tags.get(MODEL_HASH_TAG) == candidate.hash:
        raise _Absent(f"this model is the champion ({version})")
    figures = stored_query_metrics(champion.run_id, f"{gate_folder(data_hash)}/{QUERY_METRICS_FILE}")
    if figures is None:
        on_others = champion.tags.get(DATA_HASH_TAG) != data_hash
        raise _Absent(f"{version} was evaluated on other test data" if on_others else f"the run of {version} does not hold its figures")
    return _Earlier(str(champion.run_id), int(champion.version), figures)


def _previous_run(params: Params, candidate: Candidate, data_hash: str) -> _Earlier:
    """The youngest other run that was evaluated on this data."""
    experiment_id = connect(params)
    client = mlflow.MlflowClient()
    evaluated = client.search_runs([experiment_id], f"tags.`{DATA_HASH_TAG}` != ''", order_by=["attributes.start_time DESC"])
    others = [run for run in evaluated if run.info.run_id != candidate.run_id and run.data.tags.get(MODEL_HASH_TAG) != candidate.hash]
    if not others:
        raise _Absent("there is none yet")
    for run in others:
        if run.data.tags[DATA_HASH_TAG] == data_hash:
            figures = stored_query_metrics(run.info.run_id, f"{ARTIFACT_FOLDER}/{QUERY_METRICS_FILE}")
            if figures is not None:
                return _Earlier(run.info.run_id, None, figures)
    raise _Absent("earlier runs were evaluated on other test data, or no longer hold their figures")
