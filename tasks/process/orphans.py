"""Orphaned runs: runs whose worker no longer exists.

If a machine loses power or `make up` is killed, its runs stay in state Running for ever and occupy the only slot of their deployment, so
Prefect would cancel every later run.
"""

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed

STARTED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def end_orphaned_runs(api: str, work_pool: str) -> list[str]:
    """Sets the started runs of a work pool to Crashed, which frees their slots. Call it before a worker starts. Returns their names."""
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        orphans = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=STARTED))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[work_pool])),
        )
        for run in orphans:
            client.set_flow_run_state(run.id, Crashed(message="Its worker ended before it did."), force=True)
    return [run.name for run in orphans]
