"""Looks a version up in MLflow's registry without MLflow, which takes seconds to import, so that a mistyped name is reported at once.

Other databases than SQLite, a login, and what else cannot be looked up here are left to MLflow, which reports the same mistakes later.
"""

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from reelnest.errors import RegistryError
from reelnest.registry.local_store import database_file, is_missing, no_database
from reelnest.registry.reachable import HEALTH_TIMEOUT_SECONDS, check_reachable
from reelnest.settings import Params, tracking_uri

MODEL_HASH_TAG = "reelnest.model_hash"
REGISTRY = "models:/"
"""The start of the name of a registered model."""
REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<number>\d+)|@(?P<alias>[^/@]+))")
CHAMPION = "champion"
LATEST = "latest"
"""An alias that MLflow computes."""
SHORTEST_PREFIX = 6
DELETED = "Deleted_Internal"
"""MLflow's stage of deleted versions."""


class NoVersionError(RegistryError):
    """There is no such model or version."""


@dataclass(frozen=True)
class KnownVersion:
    """A version of a registered model."""

    number: int
    model_hash: str | None
    """The hash of its files; None if it was not registered by reelnest."""


def named_version(which: str, name: str | None = None) -> tuple[str, str]:
    """Returns the name and the number or alias in `models:/name/3` or `models:/name@champion`. With `name`, `which` may be one of its own.

    Raises RegistryError for another form.
    """
    match = REFERENCE.fullmatch(which)
    if match is not None:
        return match["name"], match["number"] or match["alias"]
    if name is not None and not which.startswith(REGISTRY):
        return name, which
    expected = "models:/NAME@ALIAS or models:/NAME/VERSION, such as models:/reelnest@champion"
    raise RegistryError(f"'{which}' is no version of a registered model: expected {expected}. See `reelnest models`.")


def known_version(params: Params, which: str, name: str | None = None) -> KnownVersion | None:
    """Returns the version that `which` names (see `named_version`); None if only MLflow can look it up.

    Raises RegistryError if there is no such version, NothingTracked without a database, RegistryUnavailable if the server does not respond.
    """
    name, which = named_version(which, name)
    check_known(params)
    uri = tracking_uri(params)
    file = database_file(uri)
    if which.lower() == LATEST:
        return None
    if file is not None:
        return _in_database(file, name, which)
    return _on_server(uri, name, which) if uri.startswith("http") else None


def check_known(params: Params) -> None:
    """Raises NothingTracked without a database, RegistryUnavailable if the server does not respond."""
    uri = tracking_uri(params)
    check_reachable(uri)
    file = database_file(uri)
    if file is not None and is_missing(file):
        raise no_database(file)


def check_source(text: str) -> None:
    """Raises RegistryError for too short a beginning of a data hash, commit, run, flow run or model hash."""
    if len(text) < SHORTEST_PREFIX:
        raise RegistryError(f"'{text}': give at least {SHORTEST_PREFIX} characters of a data hash, commit, run, flow run or model hash.")


def no_model(name: str) -> NoVersionError:
    """Returns the error for a name without a registered model."""
    return NoVersionError(f"MLflow has no model '{name}' yet. Run `reelnest register`.")


def no_version(name: str, which: str) -> NoVersionError:
    """Returns the error for a number or an alias without a version."""
    if which.isdecimal():
        return NoVersionError(f"Model '{name}' has no version {which}. See `reelnest models`.")
    return NoVersionError(f"No version of '{name}' has the alias '{which}'. See `reelnest models`.")


def _in_database(file: Path, name: str, which: str) -> KnownVersion | None:
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            select = "SELECT version FROM model_versions WHERE name = ? AND current_stage IS NOT ?"
            rows = [number for (number,) in database.execute(select, (name, DELETED))]
            registered = rows or database.execute("SELECT 1 FROM registered_models WHERE name = ?", (name,)).fetchone()
            select = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
            row = (int(which),) if which.isdecimal() else database.execute(select, (name, which)).fetchone()
            select = "SELECT value FROM model_version_tags WHERE name = ? AND version = ? AND key = ?"
            tag = None if row is None else database.execute(select, (name, row[0], MODEL_HASH_TAG)).fetchone()
    except sqlite3.Error:  # a database of another version, or no database; MLflow's import tells which
        return None
    if not registered:
        raise no_model(name)
    if row is None or row[0] not in rows:
        raise no_version(name, which)
    return KnownVersion(int(row[0]), None if tag is None else str(tag[0]))


def _on_server(uri: str, name: str, which: str) -> KnownVersion | None:
    by_number = which.isdecimal()
    path, key = ("model-versions/get", "version") if by_number else ("registered-models/alias", "alias")
    status, version = _ask(uri, path, {"name": name, key: which})
    if status == HTTPStatus.OK and "model_version" in version:
        tags = {tag["key"]: tag["value"] for tag in version["model_version"].get("tags", ())}
        return KnownVersion(int(version["model_version"]["version"]), tags.get(MODEL_HASH_TAG))
    if version.get("error_code") not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return None
    status, model = _ask(uri, "registered-models/get", {"name": name})
    if status == HTTPStatus.OK:
        raise no_version(name, which)
    if model.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
        raise no_model(name)
    return None


def _ask(uri: str, path: str, query: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Returns the status and the response of MLflow's REST API; an empty one if it is not JSON."""
    import requests  # a fifth of a second, and only for a server

    try:
        response = requests.get(f"{uri.rstrip('/')}/api/2.0/mlflow/{path}", params=query, timeout=HEALTH_TIMEOUT_SECONDS)
        content = response.json()
    except requests.RequestException:  # includes invalid JSON
        return 0, {}
    return response.status_code, content if isinstance(content, dict) else {}
