"""Makes a Prefect server know this checkout: the work pool, the deployments of `prefect.yaml`, the automations, and whom to notify.

Usage: `python -m tasks.services.deploy` or `reelnest deploy`. Running it again brings all of it up to date. The channels' addresses are
read from environment variables or files (`tasks/services/channels.py`), and kept in Prefect: a later run without them leaves them as they
are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.process.runner import CommandError, output_of, quieten

quieten()  # before Prefect reads its settings

import httpx
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings

from tasks.services import automations, channels, work_pools
from tasks.services.prefect_server import PREFECT


class DeployError(Exception):
    """There is no server or nothing to deploy. The text says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="reelnest deploy", description=(__doc__ or "").splitlines()[0])
    text = "on what runs run, where the work pool is still to be made (process): docs/runs.md, 'Other work pools'"
    parser.add_argument("--pool", choices=work_pools.TYPES, help=text)
    for channel in channels.CHANNELS:
        text = f"environment variable or file that holds {channel.expected}: notified of failures, champions, refused and drifted data"
        parser.add_argument(f"--{channel.name}", metavar="VARIABLE|FILE", help=text)
    asked = vars(parser.parse_args(arguments))
    pool = asked.pop("pool")
    try:
        deploy(Path.cwd(), pool, {name: source for name, source in asked.items() if source is not None})
    except (DeployError, work_pools.WorkPoolError, channels.ChannelError, CommandError, PrefectException) as error:
        sys.stderr.write(f"reelnest deploy: error: {error}\n")
        return 1
    except httpx.HTTPError as error:
        sys.stderr.write(f"reelnest deploy: error: {get_current_settings().api.url} (PREFECT_API_URL): {error or type(error).__name__}\n")
        return 1
    return 0


def deploy(checkout: Path, pool: str | None, sources: dict[str, str]) -> None:
    """`pool` is the type that the work pool is to be of. `sources` names, by channel, where its address is.

    Everything that can be wrong with them is reported before anything is changed.
    """
    if not get_current_settings().api.url:
        raise DeployError("PREFECT_API_URL is not set: start a server with `make up`, which deploys by itself, or name yours.")
    if not (checkout / "prefect.yaml").is_file():
        raise DeployError(f"{checkout}: there is no prefect.yaml here. Run it in the checkout that the worker runs in.")
    addresses = [
        (channel, channels.address_from(channel, sources[channel.name])) for channel in channels.CHANNELS if channel.name in sources
    ]

    _print(work_pools.keep(pool, checkout))
    output_of([*PREFECT, "deploy", "--all"], folder=checkout)
    _print("deployments: those of prefect.yaml")
    automations.keep(automations.on_death())
    _print("runs that died: marked as crashed")

    for channel, address in addresses:
        channels.keep(channel, address)
    blocks = channels.known_blocks()
    if blocks:
        automations.keep(automations.on_news(blocks))
        _print(f"notifications of failures, new champions, refused and drifted data go to: {', '.join(blocks)}")
    else:
        automations.remove(automations.NOTIFICATIONS)
        _print("nobody is notified of failures, new champions, refused and drifted data: name a channel with --slack, --webhook or --email")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
