"""After a machine went down, the deployment runs again."""

import uuid

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.settings import get_current_settings
from prefect.states import Pending, Running

from flows.pipeline import train_pipeline
from tasks.process.orphans import end_orphaned_runs

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_run_without_a_worker_is_ended_and_gives_back_its_slot() -> None:
    pool = f"pool-{uuid.uuid4()}"
    api = str(get_current_settings().api.url)
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        deployment = client.create_deployment(
            flow_id=client.create_flow(train_pipeline),
            name="one-at-a-time",
            work_pool_name=pool,
            concurrency_limit=1,
            concurrency_options=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW).model_dump(
                include={"collision_strategy"}
            ),
        )

        def start() -> str:
            """Proposes what a worker and the flow's process propose; returns the state that the server gave."""
            run = client.create_flow_run_from_deployment(deployment)
            client.set_flow_run_state(run.id, Pending())
            if client.read_flow_run(run.id).state_name == "Pending":
                client.set_flow_run_state(run.id, Running())
            return str(client.read_flow_run(run.id).state_name)

        assert start() == "Running"
        assert start() == "Cancelled"
        assert len(end_orphaned_runs(api, pool)) == 1
        assert start() == "Running"
        assert len(end_orphaned_runs(api, pool)) == 1
        assert end_orphaned_runs(api, pool) == []
