"""Services for the `project` of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from tests.support.running_services import running_services


@pytest.fixture(scope="module")
def api(project: Path) -> Iterator[SyncPrefectClient]:
    """Prefect's client, while its services run."""
    with running_services(project) as client:
        yield client
