"""A version's saved model, as a folder of this machine."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow.exceptions import MlflowException

from reelnest.config import Params
from reelnest.data.content_hash import folder_hash
from reelnest.data.whole_files import whole_folder
from reelnest.errors import RegistryError
from reelnest.registry.candidate import ABOUT_THE_MODEL, MODEL_HASH_TAG
from reelnest.registry.connection import connect

REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")
ARTIFACTS = "artifacts"
"""Under which MLflow keeps what `served_model` opens."""


@dataclass(frozen=True)
class FetchedModel:
    """A saved model of the registry."""

    folder: Path
    name: str
    """`models:/name/version`: an alias may have moved on tomorrow."""
    hash: str


def fetch_model(params: Params, reference: str, cache: Path) -> FetchedModel:
    """The model that `models:/name/version` or `models:/name@alias` names. One that MLflow keeps elsewhere is fetched once, into `cache`.

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
        location = client.get_logged_model(str(version.model_id)).artifact_location
        resolved = f"models:/{name}/{version.version}"
        if urlsplit(location).scheme in ("", "file"):
            found = Path(unquote(urlsplit(location).path)) / ARTIFACTS
        else:
            found = cache / f"{name}-{version.version}"
            if not found.is_dir():
                with whole_folder(found) as aside:
                    mlflow.artifacts.download_artifacts(f"{resolved}/{ARTIFACTS}", dst_path=str(aside))
    except (MlflowException, OSError) as error:
        code = getattr(error, "error_code", None)
        if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise RegistryError(f"{reference}: MLflow has no such model. See `reelnest models`.") from None
        raise RegistryError(f"{reference}: MLflow does not give the model: {error}. Try again.") from error
    folders = [path.parent for path in found.rglob("reelnest.json")]
    expected = version.tags.get(MODEL_HASH_TAG)
    if len(folders) != 1 or (found_hash := folder_hash(folders[0], without=ABOUT_THE_MODEL)) != expected:
        raise RegistryError(
            f"{resolved}: its files under {found} are not those that were registered. Register the model anew, or use another version."
        )
    return FetchedModel(folders[0], resolved, found_hash)
