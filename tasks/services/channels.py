"""Where messages go: Slack, a webhook, e-mail. Each is a block of Prefect's, named `reelnest`, which keeps the address secret.

An address is as good as a password. It comes from an environment variable or a file, since a command line is seen by every process of the
machine and stays in the shell's history; no error repeats it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from prefect.blocks.core import Block
from prefect.blocks.notifications import SendgridEmail, SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import SecretStr

from tasks.process.runner import setting

BLOCK = "reelnest"
SLACK_FORM = re.compile(r"https://hooks\.slack(?:-gov)?\.com/services/\w+/\w+/\w+/?")
WEBHOOK_FORM = re.compile(r"https?://[^\s/]+(?:/\S*)?")
EMAIL_FORM = re.compile(r"sendgrid://(?P<key>[^\s:/]+):(?P<sender>[^\s/@]+@[^\s/@]+)(?P<to>(?:/[^\s/@]+@[^\s/@]+)+)/?")


class ChannelError(Exception):
    """A channel's address that cannot be used. The text says which and what to do, and not the address."""


def slack(address: str) -> Block:
    """An incoming webhook of Slack's."""
    return SlackWebhook(url=SecretStr(address))


def webhook(address: str) -> Block:
    """What JSON with `subject` and `body` is posted to.

    Not Prefect's custom webhook notification: where the receiver refuses, that one writes the address into the server's log.
    """
    return Webhook(url=SecretStr(address), headers=SecretDict({"Content-Type": "application/json"}))


def email(address: str) -> Block:
    """Through SendGrid, Prefect's only way to send e-mail without a further package."""
    parts = EMAIL_FORM.fullmatch(address)
    assert parts is not None  # noqa: S101 -- for the type checker: `address_from` has matched it
    receivers = parts["to"].strip("/").split("/")
    return SendgridEmail(api_key=SecretStr(parts["key"]), sender_email=parts["sender"], to_emails=receivers)


@dataclass(frozen=True)
class Channel:
    """A way to tell people."""

    name: str
    make: Callable[[str], Block]
    block_type: str
    form: re.Pattern[str]
    expected: str


CHANNELS = (
    Channel("slack", slack, "slack-webhook", SLACK_FORM, "https://hooks.slack.com/services/…/…/…"),
    Channel("webhook", webhook, "webhook", WEBHOOK_FORM, "http://… or https://…"),
    Channel("email", email, "sendgrid-email", EMAIL_FORM, "sendgrid://API_KEY:SENDER/RECEIVER[/RECEIVER…]"),
)


def address_from(channel: Channel, source: str) -> str:
    """The address that an environment variable or a file of the name `source` holds. Raises ChannelError."""
    option = f"--{channel.name}"
    if "://" in source:
        raise ChannelError(
            f"{option}: give the name of an environment variable or of a file that holds the address, not the address itself: others can"
            " read a command line. (It now stands in your shell's history.)"
        )
    address = setting(source)
    if address is None:
        try:
            address = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ChannelError(f"{option} {source}: no such environment variable is set, and no such file can be read ({error}).") from None
    address = address.strip()
    if channel.form.fullmatch(address) is None:
        raise ChannelError(f"{option} {source}: what it holds is not of the form {channel.expected}.")
    return address


def keep(channel: Channel, address: str) -> None:
    """Makes the channel's block, or gives the one that is there the new address."""
    channel.make(address).save(BLOCK, overwrite=True)


def known_blocks() -> dict[str, UUID]:
    """The channels that Prefect knows, by name, with the ids of their blocks."""
    blocks = {}
    with get_client(sync_client=True) as client:
        for channel in CHANNELS:
            try:
                blocks[channel.name] = client.read_block_document_by_name(BLOCK, channel.block_type, include_secrets=False).id
            except ObjectNotFound:
                continue
    return blocks
