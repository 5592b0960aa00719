"""Which MLflow runs may go when the runs that made them go, and removing them with the versions that were registered from them."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

from reelnest.errors import NothingTracked, RegistryError
from reelnest.registry.connection import connect_to_read
from reelnest.registry.promotion.aliases import DECISION_TAG, REPLACED_TAG
from reelnest.settings import Params


@dataclass(frozen=True)
class Registered:
    """A version of the registered model."""

    version: int
    run_id: str | None
    stays: bool
    """It has an alias, was champion once, or is what a rollback would take back."""


def registered(params: Params) -> list[Registered]:
    """All versions. Raises RegistryError where MLflow cannot be reached."""
    try:
        connect_to_read(params)
    except NothingTracked:
        return []
    name = params.registration.name
    client = mlflow.MlflowClient()
    try:
        versions = list(client.search_model_versions(f"name = '{name}'"))
        aliased = set(client.get_registered_model(name).aliases.values()) if versions else set()
    except (MlflowException, OSError) as error:
        raise RegistryError(f"MLflow's registry cannot be read: {error}") from error
    replaced = {str(version.tags[REPLACED_TAG]) for version in versions if REPLACED_TAG in version.tags}
    return [
        Registered(
            int(version.version),
            version.run_id or None,
            # `aliases` gives texts or numbers, as the store has them.
            str(version.version) in {*map(str, aliased), *replaced}
            or REPLACED_TAG in version.tags
            or version.tags.get(DECISION_TAG) == "promoted",
        )
        for version in versions
    ]


def remove(params: Params, versions: Collection[int], run_ids: Collection[str]) -> None:
    """Removes versions for good, and marks runs as deleted, which `mlflow gc` then does. What is gone already is no error."""
    if not versions and not run_ids:
        return
    connect_to_read(params)
    client = mlflow.MlflowClient()
    for version in versions:
        with _gone_or(f"version {version} of {params.registration.name}"):
            client.delete_model_version(params.registration.name, str(version))
    for run_id in run_ids:
        with _gone_or(f"run {run_id}"):
            client.delete_run(run_id)


@contextmanager
def _gone_or(what: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        # A run that is marked as deleted already is an invalid one to delete.
        if error.error_code not in {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}:
            raise RegistryError(f"MLflow refused to remove {what}: {error.message}") from error
