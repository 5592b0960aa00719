"""A version's saved model, as a folder of this machine."""

import re
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from reelnest.config import Params
from reelnest.data.content_hash import folder_hash
from reelnest.data.whole_files import whole_folder
from reelnest.errors import RegistryError
from reelnest.model.saved import SETTINGS_FILE
from reelnest.registry.candidate import ABOUT_THE_MODEL, MODEL_HASH_TAG
from reelnest.registry.connection import connect
from reelnest.registry.versions import CannotMeasureError, saved_model_of

REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class FetchedModel:
    """A saved model of the registry."""

    folder: Path
    name: str
    """`models:/name/version`: an alias may have moved on tomorrow."""
    hash: str


def fetch_model(params: Params, reference: str, cache: Path) -> FetchedModel:
    """The model that `models:/name/version` or `models:/name@alias` names, fetched once into `cache`.

    Raises RegistryError where there is no such version, its files are gone or not those that were registered, or MLflow cannot be reached.
    """
    parts = REFERENCE.fullmatch(reference)
    if parts is None:
        raise RegistryError(f"'{reference}' names no model: expected a folder, models:/name/3 or models:/name@champion.")
    connect(params)
    client = mlflow.MlflowClient()
    name = parts["name"]
    try:
        version = (
            client.get_model_version(name, parts["version"])
            if parts["version"]
            else client.get_model_version_by_alias(name, parts["alias"])
        )
        resolved, kept = f"models:/{name}/{version.version}", cache / f"{name}-{version.version}"
        if not kept.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with whole_folder(kept) as aside:
                saved_model_of(version, aside)
    except CannotMeasureError as error:
        raise RegistryError(f"{resolved}: {error}. Register the model anew, or use another version.") from error
    except (MlflowException, OSError) as error:
        code = getattr(error, "error_code", None)
        if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise RegistryError(f"{reference}: MLflow has no such model. See `reelnest models`.") from None
        raise RegistryError(f"{reference}: MLflow does not give the model: {error}. Try again.") from error
    folder = next(kept.rglob(SETTINGS_FILE)).parent
    found = folder_hash(folder, without=ABOUT_THE_MODEL)
    if found != version.tags.get(MODEL_HASH_TAG):
        raise RegistryError(
            f"{resolved}: its files in {folder} are not those that were registered. Remove {kept}, and try again; if that does not help, "
            "register the model anew."
        )
    return FetchedModel(folder, resolved, found)
