"""`reelnest serve`: the search page and its API."""

import logging
import signal
import sys
from collections.abc import Callable, Sequence

import uvicorn

from reelnest.commands.index import UPLOAD_MEGABYTES, open_searchers
from reelnest.commands.search_inputs import Address, listen
from reelnest.serving.app import create_app
from reelnest.serving.clicks.click_log import ClickLog
from reelnest.serving.connections import BACKLOG, Connection
from reelnest.serving.following import Followed
from reelnest.serving.guard import LOCAL_HOSTS, Access
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace

LONGEST_REQUEST_HEAD = 1 << 20
"""Bytes. Large enough that a search text of 100,000 characters gets an error message rather than a closed connection."""
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 (compared with, not bound to)

log = logging.getLogger(__name__)


def run(
    workspace: Workspace,
    params: Params,
    indexes: Sequence[str],
    address: Address,
    *,
    model: str | None = None,
    ready: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM. Calls `ready` with the address once the server listens.

    Raises DataError and ModelError for an index that cannot be opened, ConfigError if the address cannot be used.
    """
    host = address.host
    followed = Followed(indexes, lambda locations, opened: open_searchers(workspace, params, locations, model, opened))
    folder = params.serve.click_log
    clicks = None if folder is None else ClickLog(params.serve, workspace.root / folder)
    megabytes = min(UPLOAD_MEGABYTES, params.validation.max_video_megabytes)
    hosts = [*LOCAL_HOSTS, *address.allow_hosts, *([] if host in ANY_ADDRESS else [host])]
    app = create_app(followed.searchers, Access(hosts, address.allow_origins, address.api_key), megabytes, clicks)
    if address.api_key is None and host not in LOCAL_HOSTS:
        log.warning("Everybody who reaches %s can use this server. Set REELNEST_API_KEY to require a key.", host)
    listening = listen(address)
    config = uvicorn.Config(
        app,
        http=Connection,
        backlog=BACKLOG,
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
    followed.start()
    if clicks is not None:
        log.warning("Searches and clicks are logged in %s.", folder)
        clicks.start()
    # uvicorn sends SIGTERM to itself again when it has ended. By default, that would end the process before what is below.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        if clicks is not None:
            clicks.close()
        followed.close()  # waits for an index that is being opened
