"""Checks the inputs of `reelnest index`, `search` and `serve` before a model is opened. Nothing here imports torch, which takes seconds."""

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from reelnest.encoder.saved_settings import SETTINGS_FILE
from reelnest.engines.folder_files import read_manifest
from reelnest.errors import ConfigError, DataError, ModelError
from reelnest.records.formats import VIDEOS_FILE
from reelnest.search.query_text import check_count, check_query_text
from reelnest.settings import Params

REGISTRY = "models:/"
"""The start of the name of a registered model."""


@dataclass(frozen=True)
class Query:
    """A search text and its options."""

    words: str
    k: int = 10
    dim: int | None = None
    """None is the full width, or with `funnel` the smallest dim."""
    funnel: bool = False


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int
    """0 picks a free port."""
    allow_hosts: tuple[str, ...] = ()
    """Other host names that browsers may use."""


def check_search(params: Params, index: Path, query: Query, model: str | None) -> None:
    """Raises QueryError for an invalid search, and DataError and ModelError like `check_index`."""
    check_query_text(query.words, params.validation.max_text_characters)
    check_count(query.k)
    check_index(index, model)
    read_manifest(index).check_dim(query.dim)


def check_index(folder: Path, model: str | None) -> None:
    """Raises DataError if the folder holds no index, ModelError if the folder of its model is missing. `model` replaces that model."""
    stored = read_manifest(folder).model
    check_model(model or stored_model(folder, stored))


def stored_model(folder: Path, model: str) -> str:
    """Returns the location of the model that an index names, whose folder is relative to the index's."""
    return model if model.startswith(REGISTRY) else os.path.normpath(folder.resolve() / model)


def check_model(name: str) -> None:
    """Raises ModelError for a folder that is not a saved model. Registered models are checked when they are fetched."""
    if not name.startswith(REGISTRY) and not (Path(name) / SETTINGS_FILE).is_file():
        raise ModelError(f"{name}: no saved model. Set --model to a folder that training saved, or to models:/name@champion.")


def check_videos(data: Path) -> None:
    """Raises DataError if the folder has no list of videos."""
    if not (data / VIDEOS_FILE).is_file():
        raise DataError(f"{data / VIDEOS_FILE}: no such file. Set --data to the folder that holds {VIDEOS_FILE}.")


def listen(address: Address) -> socket.socket:
    """Returns a socket that listens on the address. Raises ConfigError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"Port {address.port} is in use. Choose another with --port.") from error
        reason = f"Cannot listen on {address.host}, port {address.port} ({error.strerror})"
        raise ConfigError(f"{reason}. Choose another --host or --port.") from error
