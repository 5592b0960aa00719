"""A version's saved model, as a folder of this machine."""

import re
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from reelnest.atomic_files import atomic_folder
from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.errors import RegistryError
from reelnest.registry.candidate import MODEL_HASH_TAG, Candidate
from reelnest.registry.connection import connect_to_read
from reelnest.registry.promotion.aliases import version_of
from reelnest.registry.versions.measuring import CannotMeasureError, saved_model_of
from reelnest.settings import Params

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
    connect_to_read(params)
    name = parts["name"]
    try:
        version = version_of(name, parts["version"] or parts["alias"])
        resolved, kept = f"models:/{name}/{version.version}", cache / f"{name}-{version.version}"
        if not kept.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with atomic_folder(kept) as aside:
                saved_model_of(version, aside)
    except CannotMeasureError as error:
        raise RegistryError(f"{resolved}: {error}. Register the model anew, or use another version.") from error
    except (MlflowException, OSError) as error:
        raise RegistryError(f"{reference}: MLflow does not give the model: {error}. Try again.") from error
    found = Candidate.of(next(kept.rglob(SETTINGS_FILE)).parent)
    if found.hash != version.tags.get(MODEL_HASH_TAG):
        raise RegistryError(
            f"{resolved}: its files in {found.folder} are not those that were registered. Remove {kept}, and try again; if that does not"
            " help, register the model anew."
        )
    return FetchedModel(found.folder, resolved, found.hash)
