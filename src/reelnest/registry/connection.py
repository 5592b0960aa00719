"""How this process reaches MLflow: quickly, quietly, or with an error that says what to do."""

import logging
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import mlflow
import requests
import sqlalchemy
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
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.telemetry import set_telemetry_client

from reelnest.errors import NothingTracked, RegistryAway, RegistryError
from reelnest.registry.local_store import State, database_file, database_state, make_database
from reelnest.settings import Params, tracking_uri

HEALTH_TIMEOUT_SECONDS = 5
AWAY_STATUSES = (502, 503, 504)
"""What a proxy says of a server that starts anew."""

log = logging.getLogger(__name__)


def connect(params: Params) -> str:
    """Points this process's MLflow at `tracking.uri`, makes `tracking.experiment` if it is missing, and returns the experiment's id.

    MLflow itself retries for minutes before it gives up; a wrong address should be known in seconds, before hours of training. So the
    server (or database) is asked once, first. Calling this again is cheap and harmless. A SQLite database that is missing is made.

    Raises RegistryAway when nothing answers there, RegistryError when what answers or the experiment cannot be used.
    """
    uri = _signed_in(tracking_uri(params))
    _quiet()
    _check_answers(uri)
    file = database_file(uri)
    if file is not None:
        make_database(file)
    _set_uri(uri)
    try:
        return _experiment_id(uri, params.tracking.experiment)
    except MlflowException as error:
        where = f"MLflow at {without_credentials(uri)}, experiment '{params.tracking.experiment}'"
        raise RegistryError(f"{where}: refused with: {error.message}. {_ADVICE}") from error


def connect_to_read(params: Params) -> None:
    """Points this process's MLflow at `tracking.uri` and makes nothing there: neither a database nor an experiment.

    Raises NothingTracked where there is no database yet, RegistryAway and RegistryError as `connect` does.
    """
    uri = _signed_in(tracking_uri(params))
    _quiet()
    _check_answers(uri)
    file = database_file(uri)
    state = State.READY if file is None else database_state(file)
    if state is State.INCOMPLETE:
        raise NothingTracked(
            f"{file}: a command was interrupted while it made MLflow's database, and no run is in it. The next training moves it aside and"
            " makes a new one: run `reelnest train`."
        )
    if state is State.MISSING:
        raise NothingTracked(
            f"MLflow has no runs and no models yet: there is no database {file}. Run `make demo`, or `reelnest train`, `reelnest evaluate`"
            " and `reelnest register`."
        )
    _set_uri(uri)


def without_credentials(uri: str) -> str:
    """The address without user name and password, fit for files and logs."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def error_type(error: MlflowException | OSError) -> type[RegistryError]:
    """RegistryAway for what MLflow's client raises where nothing answered it, RegistryError for an answer that refuses."""
    cause = error.__context__ if isinstance(error, MlflowException) else error
    return RegistryAway if isinstance(cause, requests.ConnectionError | requests.Timeout) else RegistryError


_ADVICE = (
    "Start the server (`make up`), or set tracking.uri in params.yaml (or MLFLOW_TRACKING_URI) to an address that answers, "
    "such as sqlite:///mlflow.db."
)


def _quiet() -> None:
    MLFLOW_DISABLE_TELEMETRY.set(True)
    set_telemetry_client()  # the client that `import mlflow` made, before we could say no
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION.set(False)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    # MLflow's own defaults add up to four minutes on a server that went away; whoever set these in the environment knows better.
    for variable, value in ((MLFLOW_HTTP_REQUEST_MAX_RETRIES, 2), (MLFLOW_HTTP_REQUEST_TIMEOUT, 60)):
        if not variable.is_set():
            variable.set(value)


def _signed_in(uri: str) -> str:
    """A server's address without the user name and password in it, which MLflow gets by its own variables.

    Left in the address, they would stand in MLflow's every error and log line.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.username is None:
        return uri
    MLFLOW_TRACKING_USERNAME.set(unquote(parts.username))
    MLFLOW_TRACKING_PASSWORD.set(unquote(parts.password or ""))
    return without_credentials(uri)


def _set_uri(uri: str) -> None:
    # MLflow writes the address into the environment as well, where the next call (other params, same process) would find it and think
    # that the user had set it.
    ours = [variable for variable in (MLFLOW_TRACKING_URI, MLFLOW_REGISTRY_URI) if not variable.is_set()]
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    for variable in ours:
        variable.unset()


def _check_answers(uri: str) -> None:
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _check_server(uri)
    elif scheme.startswith(("postgresql", "mysql", "mssql")):
        _check_database(uri)
    elif not scheme.startswith(("sqlite", "databricks")):
        found = f"tracking.uri: '{without_credentials(uri)}'"
        raise RegistryError(f"{found} is no address that MLflow 3 can use (plain folders are no longer supported). {_ADVICE}")


def _check_server(uri: str) -> None:
    shown = without_credentials(uri)
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_SECONDS)
    except requests.RequestException as error:
        raise RegistryAway(f"MLflow does not answer at {shown} ({type(error).__name__}). {_ADVICE}") from error
    if answer.status_code in AWAY_STATUSES:
        raise RegistryAway(f"MLflow does not answer at {shown} (HTTP {answer.status_code}). {_ADVICE}")
    # A proxy in front of the server may ask for a log-in (401, 403) that MLflow's own client then brings.
    if answer.status_code >= 500 or answer.status_code == 404:
        found = f"{shown}/health gave HTTP {answer.status_code}"
        raise RegistryError(f"What answers at {shown} is no MLflow server, or a broken one: {found}. {_ADVICE}")


def _check_database(uri: str) -> None:
    shown = without_credentials(uri)
    try:
        engine = sqlalchemy.create_engine(uri)
        try:
            with engine.connect():
                pass
        finally:
            engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise RegistryError(f"MLflow's database {shown} cannot be opened: {error}. {_ADVICE}") from error


def _experiment_id(uri: str, name: str) -> str:
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        # Left to itself MLflow puts the artifacts of a local store under the current folder, wherever that is.
        file = database_file(uri)
        try:
            return client.create_experiment(
                name, artifact_location=(file.parent / "mlruns" / quote(name, safe="")).as_uri() if file else None
            )
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            return _experiment_id(uri, name)  # another process made it in between
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"MLflow at {without_credentials(uri)}: experiment '{name}' was deleted. "
            f"Restore it (`mlflow experiments restore -x {found.experiment_id}`), or set another tracking.experiment in params.yaml."
        )
    return str(found.experiment_id)
