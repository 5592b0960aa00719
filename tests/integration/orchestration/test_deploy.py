"""`reelnest deploy` with a real Prefect server: all is there once, however often it ran."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from tasks.services import automations, channels
from tasks.services.automations import DIED, NEVER_BEGAN, NOTIFICATIONS
from tasks.services.deploy import DeployError, check_timezones

pytestmark = pytest.mark.usefixtures("prefect_server")
REELNEST = str(Path(sys.executable).with_name("reelnest"))
ADDRESS = "http://127.0.0.1:9/hook?token=s3cr3t"


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    automations.remove((DIED, NEVER_BEGAN, *NOTIFICATIONS))


def deploy(checkout: Path, environment: dict[str, str], *options: str) -> str:
    done = subprocess.run([REELNEST, "deploy", *options], cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def ours() -> Counter[str]:
    with get_client(sync_client=True) as client:
        return Counter(found.name for found in client.read_automations() if found.name.startswith("reelnest:"))


@pytest.mark.slow
def test_deployed_twice_all_is_there_once_and_the_address_is_shown_nowhere(deployable: Path, child_environment: dict[str, str]) -> None:
    assert "drifted data: none" in deploy(deployable, child_environment)
    assert ours() == {DIED: 1, NEVER_BEGAN: 1}
    shown = deploy(deployable, child_environment | {"HOOK": ADDRESS}, "--webhook", "HOOK")
    assert "drifted data: webhook" in shown
    assert ours() == dict.fromkeys((DIED, NEVER_BEGAN, *NOTIFICATIONS), 1)
    with get_client(sync_client=True) as client:
        assert client.read_work_pool("reelnest").type == "process"
        assert client.read_deployment_by_name("reelnest-train/nightly").job_variables["env"] == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
        drift = client.read_deployment_by_name("reelnest-drift/champion")
        assert (drift.tags, len(drift.schedules)) == (["reelnest", "data", "drift"], 1)
        # What the form shows, with its help.
        asked = drift.parameter_openapi_schema["properties"]
        assert {name: found["type"] for name, found in asked.items()} == {"revision": "string", "quality_alone": "boolean"}
        assert all(found["description"] for found in asked.values())
        block = client.read_block_document_by_name(channels.BLOCK, "webhook", include_secrets=False)
        told = client.request("POST", "/automations/filter", json={}).text
    assert "s3cr3t" not in shown + str(block.data) + told


def test_one_line_sets_the_time_zone_of_all_schedules(deployable: Path, child_environment: dict[str, str]) -> None:
    file = deployable / "prefect.yaml"
    text = file.read_text()
    try:
        file.write_text(text.replace("&timezone UTC", "&timezone Europe/Berlin"))
        deploy(deployable, child_environment)
        with get_client(sync_client=True) as client:
            for name in ("reelnest-train/nightly", "reelnest-drift/champion"):
                (schedule,) = client.read_deployment_by_name(name).schedules
                assert schedule.schedule.timezone == "Europe/Berlin"
        file.write_text(text.replace("&timezone UTC", "&timezone Berlin"))
        with pytest.raises(DeployError, match=r"prefect\.yaml: the time zone 'Berlin' is unknown. Use a name such as Europe/Berlin"):
            check_timezones(deployable)
        for wrong, message in (
            ("deployments: [", "not readable as YAML: line "),
            ("deployments: {a: 1}", "expected `deployments:`, a list"),
        ):
            file.write_text(wrong)
            with pytest.raises(DeployError, match=rf"prefect\.yaml: {message}"):
                check_timezones(deployable)
    finally:
        file.write_text(text)


def test_an_automation_that_was_switched_off_stays_off_and_a_second_of_its_name_goes() -> None:
    automations.keep(automations.on_death())
    with get_client(sync_client=True) as client:
        (first,) = client.read_automations_by_name(DIED)
        client.pause_automation(first.id)
        automations.keep(automations.on_death())
        (left,) = client.read_automations_by_name(DIED)
        assert left.id == first.id
        assert not left.enabled
        client.create_automation(automations.on_death()[0])
        automations.keep(automations.on_death())
        assert len(client.read_automations_by_name(DIED)) == 1


def test_nothing_is_deployed_from_a_folder_without_deployments(tmp_path: Path, child_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tasks.services.deploy"], cwd=tmp_path, env=child_environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "has no prefect.yaml" in done.stderr
    done = subprocess.run([REELNEST, "deploy"], cwd=tmp_path, env=child_environment, capture_output=True, text=True, check=False)
    assert "has no tasks/" in done.stderr
    assert ours() == {}
