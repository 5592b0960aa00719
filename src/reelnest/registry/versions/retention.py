"""The retention of MLflow runs and versions: which versions must stay, and the removal of versions and runs."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

from reelnest.errors import NothingTracked, RegistryError
from reelnest.registry.connection import UNREADABLE, connect_to_read, registry_errors
from reelnest.registry.promotion.aliases import DECISION_TAG, REPLACED_TAG
from reelnest.settings import Params


@dataclass(frozen=True)
class Registered:
    """A version of the registered model."""

    version: int
    run_id: str | None
    stays: bool
    """Whether it must stay: it has an alias, was champion, or is the target of a rollback."""


def registered(params: Params) -> list[Registered]:
    """Returns all versions. Raises RegistryError if MLflow cannot be reached."""
    try:
        connect_to_read(params)
    except NothingTracked:
        return []
    name = params.registration.name
    client = mlflow.MlflowClient()
    with registry_errors(UNREADABLE):
        versions = list(client.search_model_versions(f"name = '{name}'"))
        aliased = set(client.get_registered_model(name).aliases.values()) if versions else set()
    replaced = {str(version.tags[REPLACED_TAG]) for version in versions if REPLACED_TAG in version.tags}
    return [
        Registered(
            int(version.version),
            version.run_id or None,
            # `aliases` has strings or numbers, depending on the store.
            str(version.version) in {*map(str, aliased), *replaced}
            or REPLACED_TAG in version.tags
            or version.tags.get(DECISION_TAG) == "promoted",
        )
        for version in versions
    ]


def remove(params: Params, versions: Collection[int], run_ids: Collection[str]) -> list[str]:
    """Deletes versions, and marks runs as deleted. Missing versions and runs are no error, so that it can be repeated.

    Returns the runs that there are, which `mlflow gc` can remove: it refuses all if one of them is missing.
    """
    if not versions and not run_ids:
        return []
    connect_to_read(params)
    client = mlflow.MlflowClient()
    for version in versions:
        with _ignore_missing(f"version {version} of {params.registration.name}"):
            client.delete_model_version(params.registration.name, str(version))
    marked = []
    for run_id in run_ids:
        with _ignore_missing(f"run {run_id}"):
            client.delete_run(run_id)
        with _ignore_missing(f"run {run_id}"):
            marked.append(client.get_run(run_id).info.run_id)
    return marked


@contextmanager
def _ignore_missing(what: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        # Deleting a run that is already marked as deleted is an invalid parameter.
        if error.error_code not in {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}:
            raise RegistryError(f"MLflow cannot remove {what}: {error.message}") from error
