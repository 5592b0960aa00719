"""Registers this checkout with a Prefect server: the work pool, the deployments of `prefect.yaml`, automations and notifications.

Usage: `python -m tasks.services.deploy` or `reelnest deploy`. Running it again updates everything. The channels' addresses are read from
environment variables or files (`tasks/services/channels.py`) and stored in Prefect; a later run without them does not change them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from zoneinfo import available_timezones

from reelnest.yaml_files import YAMLError, load_yaml, yaml_problem
from tasks.process.arguments import Parser
from tasks.process.runner import CommandError, output_of, quieten

quieten()  # before Prefect reads its settings

import httpx
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings

from tasks.services import automations, channels, work_pools
from tasks.services.prefect_server import PREFECT


class DeployError(Exception):
    """There is no server, or nothing to deploy. The text says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = Parser(prog="reelnest deploy", description=(__doc__ or "").splitlines()[0])
    text = "the type of a new work pool (process): see docs/runs.md, 'Other work pools'"
    parser.add_argument("--pool", choices=work_pools.TYPES, help=text)
    for channel in channels.CHANNELS:
        text = f"environment variable or file with {channel.expected}: gets news of failures, champions, refused and drifted data"
        parser.add_argument(f"--{channel.name}", metavar="VARIABLE|FILE", help=text)
    options = vars(parser.parse_args(arguments))
    pool = options.pop("pool")
    try:
        deploy(Path.cwd(), pool, {name: source for name, source in options.items() if source is not None})
    except (DeployError, work_pools.WorkPoolError, channels.ChannelError, CommandError, PrefectException) as error:
        sys.stderr.write(f"reelnest deploy: error: {error}\n")
        return 1
    except httpx.HTTPError as error:
        sys.stderr.write(f"reelnest deploy: error: {get_current_settings().api.url} (PREFECT_API_URL): {error or type(error).__name__}\n")
        return 1
    return 0


def deploy(checkout: Path, pool: str | None, sources: dict[str, str]) -> None:
    """Deploys the checkout.

    Args:
        checkout: The folder with `prefect.yaml`.
        pool: The type of a new work pool.
        sources: By channel, the environment variable or file with its address.

    Errors in these are reported before anything is changed.
    """
    if not get_current_settings().api.url:
        raise DeployError("PREFECT_API_URL is not set. Set it to your server's API, or run `make up`, which also deploys.")
    if not (checkout / "prefect.yaml").is_file():
        raise DeployError(f"{checkout} has no prefect.yaml. Run this command in the worker's checkout.")
    check_timezones(checkout)
    addresses = [
        (channel, channels.address_from(channel, sources[channel.name])) for channel in channels.CHANNELS if channel.name in sources
    ]

    _print(work_pools.keep(pool, checkout))
    output_of([*PREFECT, "deploy", "--all"], folder=checkout)
    _print("deployments: those of prefect.yaml")
    automations.keep(automations.on_death())
    _print("automations: dead runs are marked as crashed")

    for channel, address in addresses:
        channels.keep(channel, address)
    blocks = channels.known_blocks()
    if blocks:
        automations.keep(automations.on_news(blocks))
        _print(f"notifications of failures, new champions, refused and drifted data: {', '.join(blocks)}")
    else:
        automations.remove(automations.NOTIFICATIONS)
        _print("notifications of failures, new champions, refused and drifted data: none. Add a channel with --slack, --webhook or --email")


def check_timezones(checkout: Path) -> None:
    """Raises DeployError if `prefect.yaml` is not readable, or a schedule has an unknown time zone. Prefect would have deployed a part."""
    try:
        deployments = load_yaml((checkout / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
        zones = {schedule.get("timezone") or "UTC" for deployment in deployments for schedule in deployment.get("schedules") or []}
    except YAMLError as error:
        raise DeployError(f"prefect.yaml: not readable as YAML: {yaml_problem(error)}.") from None
    except (KeyError, TypeError, AttributeError):
        raise DeployError("prefect.yaml: expected `deployments:`, a list of sections, each with a list of `schedules:` or none.") from None
    if unknown := sorted(zones - available_timezones()):
        raise DeployError(f"prefect.yaml: the time zone '{unknown[0]}' is unknown. Use a name such as Europe/Berlin or UTC.")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
