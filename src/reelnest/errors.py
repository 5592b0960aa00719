"""The errors that a user can act on. The command line prints their text without a traceback and exits with `exit_status`."""


class ReelnestError(Exception):
    """Something that the person running the command can put right. The text says what was found, where, what was expected, what to do."""

    exit_status = 1


class ConfigError(ReelnestError):
    """`params.yaml` (or a file it names) asks for something that does not exist or cannot be combined."""

    exit_status = 2


class DataError(ReelnestError):
    """The data cannot be used: a missing folder, too many bad records, nothing left to train on."""


class VideoError(ReelnestError):
    """A video that cannot be used. `reason` is a short stable word, used to count bad videos by reason."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ModelError(ReelnestError):
    """A model folder that cannot be opened: no weights, pickled weights, a width that does not fit."""


class QueryError(ReelnestError):
    """A search that cannot be answered as it was asked: no words, a dim that the vectors do not have, an index that is not there."""

    exit_status = 2


class TrainingError(ReelnestError):
    """Training cannot go on: a wrong number of processes, a loss that is no number, a worker that died."""


class ArtifactError(ReelnestError):
    """A report in `reports/` is missing, broken or of another version."""


class RegistryError(ReelnestError):
    """MLflow cannot be used or does not hold what was asked for."""


class RegistryAway(RegistryError):  # noqa: N818 — a state of affairs
    """MLflow does not answer now, and may later. The exit status is sysexits' EX_TEMPFAIL, at which a flow tries the stage again."""

    exit_status = 75


class NothingTracked(RegistryError):  # noqa: N818 — a state of affairs
    """There is no MLflow database yet: nothing was trained here."""


class RunError(ReelnestError):
    """A run's workspace, its ref or its data in git and DVC cannot be used."""


class Interrupted(ReelnestError):  # noqa: N818 — nothing went wrong
    """Training was told to stop and can be resumed by the same command. The exit status is sysexits' EX_TEMPFAIL, "try again later"."""

    exit_status = 75
