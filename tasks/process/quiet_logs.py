"""Removes lines from Prefect's logs that repeat another line, or that only its developers need."""

import logging

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine", "prefect.flow_engine")
ENDED = frozenset({"FailedRun", "CrashedRun", "CancelledRun", "MissingResult"})
"""Prefect's exceptions for a run that ended in such a state. The state and its message have a line of their own."""
REPEATS = frozenset({"Finished in state Completed()"})


def quieten_logs() -> None:
    """Installs the filter. Repeated calls have no further effect."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if _is_news not in logger.filters:
            logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0] is not None and record.exc_info[0].__name__ in ENDED:
        return False
    return record.getMessage() not in REPEATS
