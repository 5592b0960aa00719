"""`reelnest serve`: the search page and its API."""

import errno
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from reelnest.commands.index import UPLOAD_MEGABYTES, open_searchers
from reelnest.errors import ConfigError
from reelnest.serving.app import create_app
from reelnest.serving.guard import LOCAL_HOSTS
from reelnest.serving.searcher import Searcher
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace

LONGEST_REQUEST_HEAD = 1 << 20
"""Bytes. Large enough that a search text of 100,000 characters gets an error message rather than a closed connection."""
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (compared with, not bound to)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int
    """0 picks a free port."""
    allow_hosts: tuple[str, ...] = ()
    """Other host names that browsers may use."""


def run(
    workspace: Workspace,
    params: Params,
    indexes: Sequence[Path],
    address: Address,
    *,
    model: str | None = None,
    ready: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM. Calls `ready` with the address once the server listens.

    Raises DataError and ModelError for an index that cannot be opened, ConfigError if the address cannot be used.
    """
    host = address.host
    searchers = named(open_searchers(workspace, params, indexes, model))
    megabytes = min(UPLOAD_MEGABYTES, params.validation.max_video_megabytes)
    hosts = [*LOCAL_HOSTS, *address.allow_hosts, *([] if host in ANY_ADDRESS else [host])]
    app = create_app(searchers, hosts, megabytes)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, address.port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"Port {address.port} is in use. Choose another with --port.") from error
        raise ConfigError(f"Cannot listen on {host}, port {address.port} ({error.strerror}). Choose another --host or --port.") from error
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=LONGEST_REQUEST_HEAD,
        timeout_graceful_shutdown=5,
    )
    host_name = "localhost" if host in ANY_ADDRESS else f"[{host}]" if ":" in host else host
    ready(f"http://{host_name}:{listening.getsockname()[1]}/")
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        for searcher in searchers.values():
            searcher.model.close()


def named(searchers: Sequence[Searcher]) -> dict[str, Searcher]:
    """Returns the searchers by the name of the index folder; a repeated name gets a number."""
    by_name: dict[str, Searcher] = {}
    for searcher in searchers:
        name, number = searcher.place.resolve().name, 1
        while (name if number == 1 else f"{name}-{number}") in by_name:
            number += 1
        by_name[name if number == 1 else f"{name}-{number}"] = searcher
    return by_name
