"""The connection to MLflow. An unreachable MLflow gives an error within seconds, with advice."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, unquote, urlsplit

import mlflow
import requests
from mlflow.entities import Run
from mlflow.environment_variables import (
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION,
    MLFLOW_DISABLE_TELEMETRY,
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
    MLFLOW_REGISTRY_URI,
    MLFLOW_TRACKING_PASSWORD,
    MLFLOW_TRACKING_URI,
    MLFLOW_TRACKING_USERNAME,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.telemetry import set_telemetry_client

from reelnest.addresses import without_credentials
from reelnest.errors import RegistryError, RegistryUnavailable
from reelnest.registry.local_store import check_tracked, database_file, make_database
from reelnest.registry.reachable import ADVICE, check_reachable
from reelnest.registry.run_notes import EXPERIMENT_TAGS
from reelnest.settings import Params, tracking_uri

log = logging.getLogger(__name__)

UNREADABLE = "MLflow's registry cannot be read"


def connect(params: Params) -> str:
    """Connects this process to `tracking.uri`, creates `tracking.experiment` if it is missing, and returns the experiment's id.

    MLflow retries for minutes before it gives up, but a wrong address should fail within seconds, before hours of training. So one request
    checks the server or database first. Repeated calls are cheap and safe. A missing SQLite database is created.

    Raises RegistryUnavailable if the server does not respond, RegistryError if the server, database or experiment cannot be used.
    """
    uri = _signed_in(tracking_uri(params))
    _quiet()
    check_reachable(uri)
    file = database_file(uri)
    if file is not None:
        make_database(file)
    _set_uri(uri)
    try:
        return _experiment_id(uri, params.tracking.experiment)
    except MlflowException as error:
        where = f"MLflow at {without_credentials(uri)}, experiment '{params.tracking.experiment}'"
        raise RegistryError(f"{where}: rejected with: {error.message}. {ADVICE}") from error


def connect_to_read(params: Params) -> None:
    """Connects this process to `tracking.uri` without creating a database or an experiment.

    Raises NothingTracked if there is no database yet, RegistryUnavailable and RegistryError as `connect` does.
    """
    uri = _signed_in(tracking_uri(params))
    _quiet()
    check_reachable(uri)
    check_tracked(uri)
    _set_uri(uri)


@contextmanager
def registry_errors(problem: str, advice: str = "Run the command again.") -> Iterator[None]:
    """Raises RegistryError with `problem` and `advice` for an error of MLflow or its storage within the block.

    Without a response from the server, this is RegistryUnavailable.
    """
    try:
        yield
    except (MlflowException, OSError) as error:  # requests raises OSErrors
        raise error_type(error)(f"{problem}: {error}. {advice}") from error


def active_run(run_id: str | None) -> Run | None:
    """Returns the run; None without an id, and for a run that does not exist or was deleted."""
    if not run_id:
        return None
    try:
        run = mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def error_type(error: MlflowException | OSError) -> type[RegistryError]:
    """Returns RegistryUnavailable if MLflow's client got no response, RegistryError if it got an error response."""
    cause = error.__context__ if isinstance(error, MlflowException) else error
    return RegistryUnavailable if isinstance(cause, requests.ConnectionError | requests.Timeout) else RegistryError


def _quiet() -> None:
    MLFLOW_DISABLE_TELEMETRY.set(True)
    set_telemetry_client()  # resets the client that `import mlflow` created
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION.set(False)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    # MLflow's defaults add up to four minutes for an unreachable server. Values from the environment take precedence.
    for variable, value in ((MLFLOW_HTTP_REQUEST_MAX_RETRIES, 2), (MLFLOW_HTTP_REQUEST_TIMEOUT, 60)):
        if not variable.is_set():
            variable.set(value)


def _signed_in(uri: str) -> str:
    """Returns a server's address without user name and password, which MLflow gets through its own variables.

    In the address, they would appear in MLflow's errors and log lines.
    """
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or address.username is None:
        return uri
    MLFLOW_TRACKING_USERNAME.set(unquote(address.username))
    MLFLOW_TRACKING_PASSWORD.set(unquote(address.password or ""))
    return without_credentials(uri)


def _set_uri(uri: str) -> None:
    # MLflow also writes the address to the environment. The next call (other params, same process) would take it for the user's setting.
    unset = [variable for variable in (MLFLOW_TRACKING_URI, MLFLOW_REGISTRY_URI) if not variable.is_set()]
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    for variable in unset:
        variable.unset()


def _experiment_id(uri: str, name: str) -> str:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # By default, MLflow writes the artifacts of a local store to the current folder.
        file = database_file(uri)
        try:
            return client.create_experiment(
                name, artifact_location=(file.parent / "mlruns" / quote(name, safe="")).as_uri() if file else None, tags=EXPERIMENT_TAGS
            )
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            return _experiment_id(uri, name)  # another process created it in the meantime
    if experiment.lifecycle_stage != "active":
        raise RegistryError(
            f"MLflow at {without_credentials(uri)}: experiment '{name}' was deleted. "
            f"Restore it (`mlflow experiments restore -x {experiment.experiment_id}`), or set another tracking.experiment in params.yaml."
        )
    for tag in EXPERIMENT_TAGS.keys() - experiment.tags.keys():  # an experiment of an earlier version, or one that somebody made by hand
        client.set_experiment_tag(experiment.experiment_id, tag, EXPERIMENT_TAGS[tag])
    return str(experiment.experiment_id)
