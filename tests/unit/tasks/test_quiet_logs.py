"""Lines of Prefect's logs that only repeat others are removed; errors of our own stay."""

import logging

import pytest
from prefect.exceptions import FailedRun

from tasks.process.quiet_logs import quieten_logs


@pytest.mark.parametrize(
    ("text", "error", "stays"),
    [
        ("Engine execution exited with unexpected exception", FailedRun("no train.epohcs"), False),
        ("Engine execution exited with unexpected exception", KeyError("x"), True),
        ("Finished in state Completed()", None, False),
        ("Finished in state Failed('no train.epohcs')", None, True),
    ],
)
def test_a_failed_state_is_logged_without_a_traceback_and_an_unexpected_error_with_one(
    text: str, error: Exception | None, stays: bool
) -> None:
    quieten_logs()
    logger = logging.getLogger("prefect.flow_runs")
    record = logger.makeRecord(logger.name, logging.ERROR, "", 0, text, (), (type(error), error, None) if error else None)
    assert bool(logger.filter(record)) is stays
