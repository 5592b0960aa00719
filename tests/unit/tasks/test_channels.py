"""Where messages go: which addresses are taken, and that none is ever shown."""

from pathlib import Path

import pytest
from prefect.blocks.notifications import SendgridEmail, SlackWebhook
from prefect.blocks.webhook import Webhook

from tasks.services.channels import CHANNELS, ChannelError, address_from

BY_NAME = {channel.name: channel for channel in CHANNELS}
GOOD = {
    "slack": "https://hooks.slack.com/services/T0S3CR3T/B0S3CR3T/s3cr3t",
    "webhook": "https://chat.example.org/hook?token=s3cr3t",
    "email": "sendgrid://SG.s3cr3t:runs@example.org/ann@example.org/bob@example.org",
}


@pytest.mark.parametrize("name", GOOD)
def test_an_address_comes_from_a_variable_or_a_file_and_is_shown_by_no_block(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADDRESS", GOOD[name])
    (tmp_path / "address").write_text(f"{GOOD[name]}\n")
    for source in ("ADDRESS", str(tmp_path / "address")):
        assert address_from(BY_NAME[name], source) == GOOD[name]
    assert "s3cr3t" not in repr(BY_NAME[name].make(GOOD[name]))


def test_the_blocks_hold_what_prefect_needs() -> None:
    slack, webhook, email = (BY_NAME[name].make(GOOD[name]) for name in ("slack", "webhook", "email"))
    assert isinstance(slack, SlackWebhook)
    assert slack.url.get_secret_value() == GOOD["slack"]
    assert isinstance(webhook, Webhook)
    assert webhook.url.get_secret_value() == GOOD["webhook"]
    assert isinstance(email, SendgridEmail)
    assert (email.api_key.get_secret_value(), email.sender_email) == ("SG.s3cr3t", "runs@example.org")
    assert email.to_emails == ["ann@example.org", "bob@example.org"]
    for channel, block in zip(CHANNELS, (slack, webhook, email), strict=True):
        assert block.get_block_type_slug() == channel.block_type


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("address", ["", "s3cr3t", "ftp://s3cr3t.example.org", "https://", "sendgrid://s3cr3t:nobody/x"])
def test_an_address_of_another_form_is_refused_without_being_repeated(
    name: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "address").write_text(address)
    with pytest.raises(ChannelError, match=f"--{name} .*not of the form") as refused:
        address_from(BY_NAME[name], str(tmp_path / "address"))
    assert "s3cr3t" not in str(refused.value)


def test_an_address_on_the_command_line_is_refused_and_a_source_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="name of an environment variable") as refused:
        address_from(BY_NAME["slack"], GOOD["slack"])
    assert "s3cr3t" not in str(refused.value)
    with pytest.raises(ChannelError, match="no such environment variable"):
        address_from(BY_NAME["slack"], "NO_SUCH_VARIABLE")
