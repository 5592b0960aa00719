"""Checks the inputs of `reelnest index`, `search` and `serve` before a model is opened. Nothing here imports torch or MLflow."""

import errno
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from reelnest.encoder.saved_settings import ABOUT_THE_MODEL, SETTINGS_FILE, read_settings, saved_hash
from reelnest.engines.engine import Manifest, base_folder, check_stored_dim, is_address, open_engine, shown
from reelnest.engines.folder_files import check_replaceable, read_manifest
from reelnest.errors import ConfigError, DataError, ModelError
from reelnest.records.content_hash import folder_hash
from reelnest.records.formats import VIDEOS_FILE
from reelnest.registry.known_versions import REGISTRY, KnownVersion, known_version
from reelnest.search.filters import parse_filter
from reelnest.search.query_text import check_count, check_query_text
from reelnest.search.storage_types import storage_names
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace


@dataclass(frozen=True)
class Query:
    """A search text and its options."""

    words: str
    k: int = 10
    dim: int | None = None
    """None is the full width, or with `funnel` the smallest dim."""
    funnel: bool = False
    where: str | None = None
    """A filter, see `reelnest.search.filters`."""


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int
    """0 picks a free port."""
    allow_hosts: tuple[str, ...] = ()
    """Other host names that browsers may use."""
    allow_origins: tuple[str, ...] = ()
    """Other sites whose pages may send requests."""
    api_key: str | None = field(default=None, repr=False)


def check_search(params: Params, index: str, query: Query, model: str | None) -> None:
    """Raises QueryError for an invalid search, and DataError and ModelError like `check_index`."""
    check_query_text(query.words, params.validation.max_text_characters)
    check_count(query.k)
    manifest = check_index(params, index, model)
    manifest.check_dim(query.dim)
    if query.where is not None:
        parse_filter(query.where, manifest.tags)


def read_index(location: str) -> Manifest:
    """Returns the manifest of an index. Raises DataError if there is none. Only the index of a server imports torch, with its engine."""
    if not is_address(location):
        return read_manifest(Path(location))
    engine = open_engine(location)
    try:
        return engine.manifest
    finally:
        engine.close()


def check_index(params: Params, index: str, model: str | None) -> Manifest:
    """Returns the manifest. Raises DataError if there is no such index, ModelError if another model made it.

    `model` replaces the model that the index names. Raises as `check_model` does if there is none.
    """
    manifest, place = read_index(index), shown(index)
    name = model or stored_model(index, manifest.model)
    version = check_model(params, name)
    if name.startswith(REGISTRY):
        if version is not None and version.model_hash is not None:
            manifest.check_model(version.model_hash, place)
    elif saved_hash(Path(name)) != manifest.model_hash:
        manifest.check_model(folder_hash(Path(name), without=ABOUT_THE_MODEL), place)
    return manifest


def stored_model(index: str, model: str) -> str:
    """Returns the location of the model that an index names, whose folder is relative to the index's."""
    return model if model.startswith(REGISTRY) else os.path.normpath(base_folder(index) / model)


def check_model(params: Params, name: str) -> KnownVersion | None:
    """Raises ModelError for a folder that is not a saved model, RegistryError for a version that does not exist (see `known_version`)."""
    if name.startswith(REGISTRY):
        return known_version(params, name)
    if not (Path(name) / SETTINGS_FILE).is_file():
        train = "Run `reelnest train`, or set" if Path(name) == Workspace().candidate else "Set"
        raise ModelError(f"{name}: no saved model. {train} --model to a folder that training saved, or to models:/name@champion.")
    return None


@dataclass(frozen=True)
class NewIndex:
    """What `reelnest index` is asked to write."""

    model: str
    data: Path
    to: str
    storage: str
    dim: int | None


def check_new_index(params: Params, new: NewIndex) -> None:
    """Raises DataError without videos, ConfigError for a place, a storage type or a dim that is not possible, and as `check_model` does."""
    check_videos(new.data)
    if not is_address(new.to):
        check_replaceable(Path(new.to))
    if new.storage not in storage_names():
        raise ConfigError(f"storage {new.storage}: expected {', '.join(storage_names())}.")
    check_model(params, new.model)
    if not new.model.startswith(REGISTRY):
        trained = read_settings(Path(new.model)).get("model", {}).get("dims")
        if isinstance(trained, list):
            check_stored_dim(trained, new.dim)


def check_videos(data: Path) -> None:
    """Raises DataError if the folder has no list of videos."""
    if not (data / VIDEOS_FILE).is_file():
        raise DataError(f"{data / VIDEOS_FILE}: no such file. Set --data to the folder that holds {VIDEOS_FILE}.")


def listen(address: Address) -> socket.socket:
    """Returns a socket that listens on the address. Raises ConfigError if the address, or a name that it allows, cannot be used."""
    _check_names(address)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listening = socket.create_server((address.host, address.port), family=family)
        # asyncio sets this only for sockets that name their protocol. Without it, a response of two packets waits 40 ms for the client.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"Port {address.port} is in use. Choose another with --port.") from error
        why = (error.strerror or str(error)).partition(" (while")[0]  # Python appends the address, which the message has
        reason = f"Cannot listen on {address.host}, port {address.port} ({why})"
        raise ConfigError(f"{reason}. Choose another --host or --port.") from error


def _check_names(address: Address) -> None:
    """Raises ConfigError for names that no request can have."""
    for host in address.allow_hosts:
        if not host.strip() or "/" in host or host.count(":") == 1:  # IPv6 addresses have more colons
            raise ConfigError(f"--allow-host '{host}': expected a host name without scheme and port, such as videos.example.")
    for origin in address.allow_origins:
        site = urlsplit(origin)
        if site.scheme not in ("http", "https") or not site.netloc or site.path not in ("", "/"):
            raise ConfigError(f"--allow-origin '{origin}': expected a site with its scheme, such as https://app.example.")
