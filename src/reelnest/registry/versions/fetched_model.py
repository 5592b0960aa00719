"""The download of a version's saved model."""

from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from reelnest.atomic_files import atomic_folder
from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.errors import RegistryError
from reelnest.registry.candidate import Candidate
from reelnest.registry.connection import connect_to_read
from reelnest.registry.known_versions import MODEL_HASH_TAG, named_version
from reelnest.registry.promotion.aliases import version_of
from reelnest.registry.versions.measuring import CannotMeasureError, saved_model_of
from reelnest.settings import Params, current_params

CACHE = Path("work/models")
"""Where `saved_folder` downloads models, relative to the current folder."""


@dataclass(frozen=True)
class FetchedModel:
    """A downloaded model of the registry."""

    folder: Path
    name: str
    """`models:/name/version`. It has the number and not the alias, because an alias may move."""
    hash: str


def saved_folder(reference: str) -> Path:
    """Returns the folder of a registered model, for `reelnest.load`. MLflow's address is that of the project in the current folder.

    Outside a project it is MLFLOW_TRACKING_URI. Raises RegistryError like `fetch_model`.
    """
    return fetch_model(current_params(), reference, CACHE).folder


def fetch_model(params: Params, reference: str, cache: Path) -> FetchedModel:
    """Returns the model of `models:/name/version` or `models:/name@alias`, downloaded once into `cache`.

    Raises RegistryError if there is no such version, its files are missing or have changed, or MLflow cannot be reached.
    """
    name, which = named_version(reference)
    connect_to_read(params)
    try:
        version = version_of(name, which)
        resolved, cached = f"models:/{name}/{version.version}", cache / f"{name}-{version.version}"
        if not cached.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with atomic_folder(cached) as folder:
                saved_model_of(version, folder)
    except CannotMeasureError as error:
        raise RegistryError(f"{resolved}: {error}. Register the model again, or use another version.") from error
    except (MlflowException, OSError) as error:
        raise RegistryError(f"{reference}: the model cannot be downloaded from MLflow: {error}. Try again.") from error
    model = Candidate.of(next(cached.rglob(SETTINGS_FILE)).parent)
    if model.hash != version.tags.get(MODEL_HASH_TAG):
        raise RegistryError(
            f"{resolved}: its files in {model.folder} differ from the registered ones. Remove {cached} and try again, or register the"
            " model again."
        )
    return FetchedModel(model.folder, resolved, model.hash)
