"""Past flow runs in Prefect: lists and deletes them."""

from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.exceptions import ObjectNotFound

PAGE = 200


def ended_before(moment: datetime) -> list[UUID]:
    """Returns the runs of this project's flows that ended before `moment`."""
    ended: list[UUID] = []
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(like_="reelnest-")),
                flow_run_filter=FlowRunFilter(
                    end_time=FlowRunFilterEndTime(before_=moment),
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
                ),
                limit=PAGE,
                offset=len(ended),
            )
            ended += [run.id for run in page]
            if len(page) < PAGE:
                return ended


def delete(runs: list[UUID]) -> None:
    """Deletes flow runs with their logs and task runs. Runs that no longer exist are ignored."""
    with get_client(sync_client=True) as client:
        for run in runs:
            try:
                client.delete_flow_run(run)
            except ObjectNotFound:
                continue
