"""Which version is champion, how that is changed by hand, and how it is taken back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from reelnest.errors import RegistryError
from reelnest.evaluation.metrics import logged_name
from reelnest.registry.connection import connect_to_read
from reelnest.registry.promotion.deciding import deciding
from reelnest.settings import Params

CHAMPION, CHALLENGER = "champion", "challenger"
DECISION_TAG = "reelnest.decision"
REASON_TAG = "reelnest.reason"
TAKEN_BACK = "taken back by hand"
"""What the reason of a version begins with whose place a person gave back to the one before it."""
REPLACED_TAG = "reelnest.replaced"
"""Of a version that became champion: the number of the one before it."""


@dataclass(frozen=True)
class Entry:
    """A version, as `reelnest models` shows it."""

    version: int
    aliases: tuple[str, ...]
    created: int
    """Milliseconds since 1970."""
    value: float | None
    """Of `register.metric` over all queries at the full width; figures of different `data` are not comparable."""
    data: str
    """The first characters of the evaluation data's hash."""
    commit: str
    reason: str


def versions_table(params: Params) -> list[Entry]:
    """All versions of the registered model, the newest first. Raises RegistryError where MLflow cannot be reached."""
    connect_to_read(params)
    name = params.registration.name
    client = mlflow.MlflowClient()
    try:
        found: Sequence[Any] = [
            client.get_model_version(name, version.version)  # a search gives no aliases
            for version in client.search_model_versions(f"name = '{name}'")
        ]
    except (MlflowException, OSError) as error:
        raise RegistryError(f"MLflow's registry cannot be read: {error}") from error
    metric = logged_name(params.registration.metric)
    entries = [
        Entry(
            int(version.version),
            tuple(sorted(version.aliases)),
            int(version.creation_timestamp),
            float(version.tags[metric]) if metric in version.tags else None,
            version.tags.get("reelnest.evaluation_data_hash", "")[:8],
            version.tags.get("reelnest.git_commit", ""),
            version.tags.get(REASON_TAG, "not decided yet: `reelnest register` goes on"),
        )
        for version in found
    ]
    return sorted(entries, key=lambda entry: entry.version, reverse=True)


def promote(params: Params, which: str) -> int:
    """Makes a version (by number or alias) champion, whatever the gate said of it, and gives its number.

    Raises RegistryError where there is no such version, its files are gone, or MLflow cannot be reached.
    """
    connect_to_read(params)
    name = params.registration.name
    try:
        chosen = version_of(name, which)
        with deciding(name):
            before = champion_of(name)
            set_champion(chosen, before, "by hand" + (f", in place of version {before.version}" if before else ""))
    except (MlflowException, OSError) as error:
        raise RegistryError(f"MLflow's registry refused: {error}. Nothing is lost: do it again.") from error
    return int(chosen.version)


def rollback(params: Params) -> tuple[int, int]:
    """Gives the alias `champion` back to the version that had it before; both numbers, from and to.

    Once more goes one step further back. Raises RegistryError where there is no earlier champion, its files are gone, or MLflow cannot be
    reached.
    """
    connect_to_read(params)
    name = params.registration.name
    client = mlflow.MlflowClient()
    try:
        _registered(name)
        with deciding(name):
            present = champion_of(name)
            if present is None:
                raise RegistryError(f"Model '{name}' has no champion, so there is nothing to take back. See `reelnest models`.")
            if REPLACED_TAG not in present.tags:
                raise RegistryError(f"Version {present.version} of '{name}' replaced no champion: there is none to go back to.")
            earlier = version_of(name, present.tags[REPLACED_TAG])
            _check_files(earlier)
            client.set_model_version_tag(name, present.version, REASON_TAG, f"{TAKEN_BACK}, for version {earlier.version}")
            client.set_model_version_tag(name, present.version, DECISION_TAG, "not promoted")
            # Last: one that was cut off before it is done again, and does not go back a second step.
            client.set_registered_model_alias(name, CHAMPION, earlier.version)
    except (MlflowException, OSError) as error:
        raise RegistryError(f"MLflow's registry refused: {error}. Nothing is lost: do it again.") from error
    return int(present.version), int(earlier.version)


def champion_of(name: str) -> ModelVersion | None:
    """The version that carries the alias `champion`."""
    return _by_alias(name, CHAMPION)


def set_champion(version: ModelVersion, before: ModelVersion | None, reason: str) -> None:
    """Inside `deciding`. What it says of the change comes first and the decision last, so that one that was cut off can go on."""
    _check_files(version)
    client = mlflow.MlflowClient()
    if before is None or before.version != version.version:
        if before is not None:
            client.set_model_version_tag(version.name, version.version, REPLACED_TAG, str(before.version))
        client.set_model_version_tag(version.name, version.version, REASON_TAG, reason)
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
    client.set_model_version_tag(version.name, version.version, DECISION_TAG, "promoted")


def version_of(name: str, which: str) -> ModelVersion:
    """The version with that number or alias. Raises RegistryError where there is none."""
    _registered(name)
    if not which.isdecimal():
        found = _by_alias(name, which)
        if found is None:
            raise RegistryError(f"No version of '{name}' carries the alias '{which}'. See `reelnest models`.")
        return found
    try:
        return mlflow.MlflowClient().get_model_version(name, which)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(f"Model '{name}' has no version {which}. See `reelnest models`.") from None
        raise


def _registered(name: str) -> None:
    try:
        mlflow.MlflowClient().get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(f"MLflow has no model '{name}' yet. Run `reelnest register`.") from None
        raise


def _by_alias(name: str, alias: str) -> ModelVersion | None:
    client = mlflow.MlflowClient()
    try:
        return client.get_model_version_by_alias(name, alias)  # search_model_versions knows no aliases
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _check_files(version: ModelVersion) -> None:
    try:
        held = mlflow.artifacts.list_artifacts(f"models:/{version.name}/{version.version}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        held = []
    if not held:
        raise RegistryError(
            f"The files of version {version.version} of '{version.name}' are gone from MLflow's storage, so it cannot become champion."
            " Register a model anew, or choose another version (`reelnest models`)."
        )
