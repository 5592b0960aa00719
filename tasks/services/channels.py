"""Notification channels: Slack, a webhook, e-mail. Each is a Prefect block named `reelnest`, which stores the address as a secret.

An address must be treated like a password. It comes from an environment variable or a file, because every process of the machine can read a
command line, which also stays in the shell's history. Errors never contain it.
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
    """A channel's address cannot be used. The text names the channel and what to do, but not the address."""


def slack(address: str) -> Block:
    """Returns a block for an incoming webhook of Slack."""
    return SlackWebhook(url=SecretStr(address))


def webhook(address: str) -> Block:
    """Returns a block for a URL that gets JSON with `subject` and `body` by POST.

    Prefect's custom webhook notification is not used, because it writes the address into the server's log if the receiver rejects it.
    """
    return Webhook(url=SecretStr(address), headers=SecretDict({"Content-Type": "application/json"}))


def email(address: str) -> Block:
    """Returns a block for e-mail through SendGrid, the only way in Prefect without another package."""
    fields = EMAIL_FORM.fullmatch(address)
    assert fields is not None  # noqa: S101 -- for the type checker: `address_from` has matched it
    receivers = fields["to"].strip("/").split("/")
    return SendgridEmail(api_key=SecretStr(fields["key"]), sender_email=fields["sender"], to_emails=receivers)


@dataclass(frozen=True)
class Channel:
    """A way to notify people."""

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
    """Reads the address from the environment variable or file `source`. Raises ChannelError."""
    option = f"--{channel.name}"
    if "://" in source:
        raise ChannelError(
            f"{option}: give the name of an environment variable or file with the address, not the address itself: others can read a"
            " command line. (The address is now in your shell's history.)"
        )
    address = setting(source)
    if address is None:
        try:
            address = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ChannelError(f"{option} {source}: no such environment variable, and no readable file ({error}).") from None
    address = address.strip()
    if channel.form.fullmatch(address) is None:
        raise ChannelError(f"{option} {source}: its content is not of the form {channel.expected}.")
    return address


def keep(channel: Channel, address: str) -> None:
    """Creates the channel's block, or updates its address."""
    channel.make(address).save(BLOCK, overwrite=True)


def known_blocks() -> dict[str, UUID]:
    """Returns the ids of the channels' blocks in Prefect, by channel name."""
    blocks = {}
    with get_client(sync_client=True) as client:
        for channel in CHANNELS:
            try:
                blocks[channel.name] = client.read_block_document_by_name(BLOCK, channel.block_type, include_secrets=False).id
            except ObjectNotFound:
                continue
    return blocks
