"""Checks that MLflow's server or database responds, without MLflow, which takes seconds to import.

The libraries for servers take half a second, and most commands need neither: they are imported where they are used.
"""

from urllib.parse import urlsplit

from reelnest.addresses import without_credentials
from reelnest.errors import RegistryError, RegistryUnavailable

HEALTH_TIMEOUT_SECONDS = 5
AWAY_STATUSES = (502, 503, 504)
"""HTTP statuses that a proxy returns while its server restarts."""
ADVICE = (
    "Start the server (`make up`), or set tracking.uri in params.yaml (or MLFLOW_TRACKING_URI) to another address, such as "
    "sqlite:///mlflow.db."
)
"""What to do if MLflow cannot be used."""


def check_reachable(uri: str) -> None:
    """Raises RegistryUnavailable if the server of `uri` does not respond, RegistryError for another address that cannot be used."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _check_server(uri)
    elif scheme.startswith(("postgresql", "mysql", "mssql")):
        _check_database(uri)
    elif not scheme.startswith(("sqlite", "databricks")):
        address = without_credentials(uri)
        raise RegistryError(f"tracking.uri: MLflow 3 does not support '{address}' (nor plain folders). {ADVICE}")


def _check_server(uri: str) -> None:
    import requests

    address = without_credentials(uri)
    try:
        response = requests.get(f"{uri.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_SECONDS)
    except requests.RequestException as error:
        raise RegistryUnavailable(f"MLflow does not respond at {address} ({type(error).__name__}). {ADVICE}") from error
    if response.status_code in AWAY_STATUSES:
        raise RegistryUnavailable(f"MLflow does not respond at {address} (HTTP {response.status_code}). {ADVICE}")
    # A proxy in front of the server may require a login (401, 403) that MLflow's client provides later.
    if response.status_code >= 500 or response.status_code == 404:
        raise RegistryError(f"No working MLflow server at {address}: {address}/health returned HTTP {response.status_code}. {ADVICE}")


def _check_database(uri: str) -> None:
    import sqlalchemy

    address = without_credentials(uri)
    try:
        engine = sqlalchemy.create_engine(uri)
        try:
            with engine.connect():
                pass
        finally:
            engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise RegistryError(f"MLflow's database {address} cannot be opened: {error}. {ADVICE}") from error
