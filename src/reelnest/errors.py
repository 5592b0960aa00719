"""Errors that a user can fix. The command line prints their text without a traceback and exits with `exit_status`."""

import errno
import os

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)


class ReelnestError(Exception):
    """An error that the user can fix. The text has the problem, its location, the expected state and advice."""

    exit_status = 1


class ConfigError(ReelnestError):
    """A setting in `params.yaml`, or in a file it names, does not exist, is invalid or conflicts with another."""

    exit_status = 2


class DataError(ReelnestError):
    """The data cannot be used: a missing folder, too many bad records, no pairs to train on."""


class NoIndex(DataError):  # noqa: N818 — a state, not a mistake
    """A location has no index, or none that can be read. `reelnest index` makes one."""


class VideoError(ReelnestError):
    """A video that cannot be used. `reason` is a short stable word, used to count bad videos by reason."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ModelError(ReelnestError):
    """A model folder that cannot be opened: no weights, pickled weights, a wrong width."""


class QueryError(ReelnestError):
    """An invalid search: an empty query, a dim that the vectors do not have, a missing index."""

    exit_status = 2


class TrainingError(ReelnestError):
    """Training cannot continue: a wrong number of processes, a loss of NaN, a worker that ended."""


class ArtifactError(ReelnestError):
    """A report in `reports/` is missing, damaged or of another version."""


class RegistryError(ReelnestError):
    """MLflow cannot be used, or lacks the requested run or model."""


class RegistryUnavailable(RegistryError):  # noqa: N818 — a state, not a mistake
    """MLflow is temporarily unreachable. The exit status is sysexits' EX_TEMPFAIL, on which a flow retries the stage."""

    exit_status = os.EX_TEMPFAIL


class NothingTracked(RegistryError):  # noqa: N818 — a state, not a mistake
    """There is no MLflow database yet, because nothing was trained here."""


class RunError(ReelnestError):
    """A run's workspace, ref, or data in git and DVC cannot be used."""


class Interrupted(ReelnestError):  # noqa: N818 — not a failure
    """Training was stopped. The same command resumes it. The exit status is sysexits' EX_TEMPFAIL, "try again later"."""

    exit_status = os.EX_TEMPFAIL


def storage_problem(error: Exception) -> str | None:
    """Returns what to do about a full disk, or about a folder without permission; None for other errors.

    Libraries that write files wrap the system's error, so its text counts too.
    """
    number = error.errno if isinstance(error, OSError) else None
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error, OSError) and isinstance(error.filename, str | bytes) else ""
    if number in NO_SPACE or any(os.strerror(kind) in str(error) for kind in NO_SPACE):
        return f"{place}the disk is full or a quota is reached ({_system_text(error)}). Free some space and run again."
    if number in NO_PERMISSION:
        return f"{place}no permission ({_system_text(error)}). Change the permissions of the file or its folder, or run in another folder."
    return None


def _system_text(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0][:200]
