"""The server that a checkout starts for itself."""

from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.services.prefect_server import prefect_api


@pytest.mark.slow
def test_a_run_keeps_its_slot_when_the_server_starts_anew(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        with prefect_api(tmp_path) as api, SyncPrefectClient(api) as client:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="deployment", limit=1))
            taken = client.increment_concurrency_slots_with_lease(["deployment"], slots=1, mode="concurrency", lease_duration=300)
            lease = taken.json()["lease_id"]
        with prefect_api(tmp_path) as api, SyncPrefectClient(api) as client:
            client.renew_concurrency_lease(lease, lease_duration=300)  # a run ends where this is refused
            assert client.read_global_concurrency_limit_by_name("deployment").active_slots == 1
