"""The aliases `champion` and `challenger`: the list of versions, manual promotion and rollback."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from reelnest.errors import RegistryError
from reelnest.evaluation.metrics import logged_name
from reelnest.registry.connection import UNREADABLE, connect_to_read, registry_errors
from reelnest.registry.known_versions import CHAMPION, no_model, no_version
from reelnest.registry.promotion.deciding import deciding
from reelnest.settings import Params

CHALLENGER = "challenger"
DECISION_TAG = "reelnest.decision"
REASON_TAG = "reelnest.reason"
TAKEN_BACK = "taken back by hand"
"""The start of the reason of a version that a rollback replaced."""
REPLACED_TAG = "reelnest.replaced"
"""Tag of a version that became champion: the number of the previous champion; empty after a rollback to that one."""


@dataclass(frozen=True)
class Entry:
    """A version in the table of `reelnest models`."""

    version: int
    aliases: tuple[str, ...]
    created: int
    """Milliseconds since 1970."""
    value: float | None
    """The value of `register.metric` over all queries at the full width. Values on different `data` are not comparable."""
    data: str
    """The hash of the evaluation data; empty if it is unknown."""
    commit: str
    reason: str


def versions_table(params: Params) -> list[Entry]:
    """Returns all versions of the registered model, newest first. Raises RegistryError if MLflow cannot be reached."""
    connect_to_read(params)
    name = params.registration.name
    client = mlflow.MlflowClient()
    with registry_errors(UNREADABLE):
        versions: Sequence[Any] = [
            client.get_model_version(name, version.version)  # a search returns no aliases
            for version in client.search_model_versions(f"name = '{name}'")
        ]
    metric = logged_name(params.registration.metric)
    entries = [
        Entry(
            int(version.version),
            tuple(sorted(version.aliases)),
            int(version.creation_timestamp),
            float(version.tags[metric]) if metric in version.tags else None,
            version.tags.get("reelnest.evaluation_data_hash", ""),
            version.tags.get("reelnest.git_commit", ""),
            version.tags.get(REASON_TAG, "not decided yet: run `reelnest register`"),
        )
        for version in versions
    ]
    return sorted(entries, key=lambda entry: entry.version, reverse=True)


def promote(params: Params, which: str) -> int:
    """Makes a version (by number or alias) champion, regardless of the gate, and returns its number.

    Raises RegistryError if there is no such version, its files are missing, or MLflow cannot be reached.
    """
    connect_to_read(params)
    name = params.registration.name
    with registry_errors("MLflow's registry failed"):
        chosen = version_of(name, which)
        with deciding(name):
            before = champion_of(name)
            set_champion(chosen, before, "by hand" + (f", in place of version {before.version}" if before else ""))
    return int(chosen.version)


def rollback(params: Params) -> tuple[int, int]:
    """Moves the alias `champion` back to the previous champion. Returns the numbers of the replaced and the restored version.

    Another call goes back one more step. Raises RegistryError if there is no earlier champion, its files are missing, or MLflow cannot be
    reached.
    """
    connect_to_read(params)
    name = params.registration.name
    client = mlflow.MlflowClient()
    with registry_errors("MLflow's registry failed"):
        _registered(name)
        with deciding(name):
            present = champion_of(name)
            if present is None:
                raise RegistryError(f"Model '{name}' has no champion, so there is nothing to roll back. See `reelnest models`.")
            if not present.tags.get(REPLACED_TAG):
                raise RegistryError(f"Version {present.version} of '{name}' replaced no champion, so there is none to roll back to.")
            earlier = version_of(name, present.tags[REPLACED_TAG])
            _check_files(earlier)
            client.set_model_version_tag(name, present.version, REASON_TAG, f"{TAKEN_BACK}, for version {earlier.version}")
            client.set_model_version_tag(name, present.version, DECISION_TAG, "not promoted")
            # The alias is set after them, so that repeating an interrupted rollback does not go back two steps.
            client.set_registered_model_alias(name, CHAMPION, earlier.version)
            # If the earlier one replaced this version before, going back once more must not lead here again.
            client.set_model_version_tag(name, present.version, REPLACED_TAG, "")
    return int(present.version), int(earlier.version)


def champion_of(name: str) -> ModelVersion | None:
    """Returns the version with the alias `champion`, or None."""
    return _by_alias(name, CHAMPION)


def set_champion(version: ModelVersion, before: ModelVersion | None, reason: str) -> None:
    """Makes `version` champion. Call it inside `deciding`. The decision is written last, so that an interrupted call can be repeated."""
    _check_files(version)
    client = mlflow.MlflowClient()
    if before is None or before.version != version.version:
        if before is not None:
            client.set_model_version_tag(version.name, version.version, REPLACED_TAG, str(before.version))
        client.set_model_version_tag(version.name, version.version, REASON_TAG, reason)
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
    client.set_model_version_tag(version.name, version.version, DECISION_TAG, "promoted")


def version_of(name: str, which: str) -> ModelVersion:
    """Returns the version with that number or alias. Raises RegistryError if there is none."""
    _registered(name)
    if not which.isdecimal():
        version = _by_alias(name, which)
        if version is None:
            raise no_version(name, which)
        return version
    try:
        return mlflow.MlflowClient().get_model_version(name, which)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise no_version(name, which) from None
        raise


def _registered(name: str) -> None:
    try:
        mlflow.MlflowClient().get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise no_model(name) from None
        raise


def _by_alias(name: str, alias: str) -> ModelVersion | None:
    client = mlflow.MlflowClient()
    try:
        return client.get_model_version_by_alias(name, alias)  # search_model_versions cannot search by alias
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _check_files(version: ModelVersion) -> None:
    try:
        files = mlflow.artifacts.list_artifacts(f"models:/{version.name}/{version.version}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        files = []
    if not files:
        raise RegistryError(
            f"The files of version {version.version} of '{version.name}' are missing from MLflow's storage, so it cannot become champion."
            " Register the model again, or choose another version (`reelnest models`)."
        )
