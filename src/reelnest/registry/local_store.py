"""MLflow's local SQLite database, which is created atomically.

MLflow creates the tables of a new database in about seventy steps. If the process ends in between, every later command fails with "table …
already exists". So the tables are created in a temporary file, which is then renamed. Incomplete databases from other causes are detected
and moved aside.

MLflow and SQLAlchemy take seconds to import, so they are imported on first use: a missing database is reported at once.
"""

import logging
import sqlite3
import time
from contextlib import closing
from enum import Enum, auto
from pathlib import Path

from filelock import FileLock

from reelnest.atomic_files import flush
from reelnest.errors import NothingTracked, RegistryError

SQLITE = "sqlite:///"
SIDE_FILES = ("-journal", "-wal", "-shm")
"""Suffixes of SQLite's extra files. An old journal would be applied to a new database of the same name."""
MLFLOW_TABLES = {"experiments", "_alembic_tmp_experiments", "runs"}
"""Tables that have a row once MLflow is in use, and the temporary name of the first during migrations."""
QUIET_SECONDS = 5.0
"""If an incomplete database changed within this time, another program, such as a server, may still be creating it."""
LOCK_TIMEOUT_SECONDS = 30.0

log = logging.getLogger(__name__)


class State(Enum):
    """The state of a database file."""

    MISSING = auto()
    INCOMPLETE = auto()
    """A process ended while it created the tables. The database has no runs."""
    READY = auto()


def database_file(uri: str) -> Path | None:
    """Returns the file of a SQLite store, as SQLAlchemy reads its address; None for other stores."""
    scheme, _, place = uri.partition("://")
    if scheme.partition("+")[0] != "sqlite":
        return None
    name = place.partition("/")[2].partition("?")[0]
    return Path(name).absolute() if name and name != ":memory:" else None


def database_state(file: Path) -> State:
    """Inspects a database without changing it.

    Raises RegistryError for a file that is no SQLite database or that belongs to another program or to another version of MLflow.
    """
    if is_missing(file):
        return State.MISSING
    try:
        tables, rows, revision = _contents(file)
    except sqlite3.Error as error:
        raise RegistryError(
            f"{file}: MLflow's database cannot be read: {error}. Put a backup in its place, or move it to start with an empty database."
        ) from error
    if tables and not tables & MLFLOW_TABLES:
        raise RegistryError(f"{file}: this SQLite database belongs to another program. Set another tracking.uri in params.yaml.")
    if revision == _newest_revision():
        return State.READY
    if not rows:
        return State.INCOMPLETE
    raise RegistryError(_other_version(file, revision))


def is_missing(file: Path) -> bool:
    """Returns whether there is no database. Raises RegistryError if there is no folder for it. MLflow is not imported."""
    if not file.parent.is_dir():
        raise RegistryError(
            f"tracking.uri: {SQLITE}{file}: the folder {file.parent} does not exist. Create it, or change tracking.uri in params.yaml."
        )
    return not file.exists() or not file.stat().st_size


def no_database(file: Path) -> NothingTracked:
    """Returns the error for a missing database."""
    return NothingTracked(
        f"MLflow has no runs and no models yet: no database {file}. Run `make demo`, or `reelnest train`, `reelnest evaluate` and"
        " `reelnest register`."
    )


def check_tracked(uri: str) -> None:
    """Raises NothingTracked if the SQLite database of `uri` is missing or incomplete, RegistryError as `database_state` does."""
    file = database_file(uri)
    state = State.READY if file is None else database_state(file)
    if state is State.INCOMPLETE:
        raise NothingTracked(
            f"{file}: a command was interrupted while it created MLflow's database, which has no runs. Run `reelnest train`: it moves the"
            " file aside and creates a new database."
        )
    if file is not None and state is State.MISSING:
        raise no_database(file)


def make_database(file: Path) -> None:
    """Creates MLflow's tables in `file` if they are missing. Concurrent processes wait for each other.

    An incomplete database is moved aside, and its new path is logged. Raises RegistryError as `database_state` does.
    """
    if database_state(file) is State.READY:
        return
    try:
        with FileLock(file.with_name(f"{file.name}.lock")):
            state = _settled_state(file)
            if state is State.READY:
                return
            unfinished = file.with_name(f"{file.name}.unfinished")  # a fixed name, so that the file of a killed process is removed here
            _remove(unfinished)
            try:
                _make_tables(unfinished)
                _move_aside(file, state)
                unfinished.replace(file)
            finally:
                _remove(unfinished)
            flush(file.parent)
    except OSError as error:
        raise RegistryError(f"{file}: MLflow's database cannot be created: {error.strerror or error}.") from error


def _contents(file: Path) -> tuple[set[str], bool, str | None]:
    """Returns the names of the tables, whether there is any experiment or run, and the revision of the schema."""
    with closing(sqlite3.connect(file, timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN")  # reads a consistent snapshot
        tables = {str(name) for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        # The names are constants of this module.
        rows = any(database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in tables & MLFLOW_TABLES)  # noqa: S608 (see above)
        revision = database.execute("SELECT version_num FROM alembic_version").fetchone() if "alembic_version" in tables else None
    return tables, rows, None if revision is None else str(revision[0])


def _newest_revision() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision  # `mlflow server` compares with it too

    return _get_latest_schema_revision()


def _other_version(file: Path, revision: str | None) -> str:
    import mlflow

    known = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if revision is None or any(known.glob(f"{revision}_*.py")):
        return (
            f"{file}: MLflow's database is from an older MLflow than {mlflow.__version__}, or its upgrade was interrupted."
            f" Back up the file, then run `mlflow db upgrade {SQLITE}{file}`."
        )
    return (
        f"{file}: MLflow's database is from a newer MLflow than {mlflow.__version__}. Install that version, or set another tracking.uri"
        " in params.yaml."
    )


def _settled_state(file: Path) -> State:
    """Returns the state, after waiting while an incomplete database still changes. Another program may be creating it."""
    while (state := database_state(file)) is State.INCOMPLETE:
        files = [path for path in (file, *_side_files(file)) if path.exists()]
        rest = max(path.stat().st_mtime for path in files) + QUIET_SECONDS - time.time()
        if not 0 < rest <= QUIET_SECONDS:
            break
        time.sleep(min(rest, 0.5))
    return state


def _make_tables(file: Path) -> None:
    import sqlalchemy

    # `mlflow db upgrade` calls the same function, with an engine that syncs to disk at each step.
    from mlflow.store.db.utils import _initialize_tables

    logging.getLogger(_initialize_tables.__module__).setLevel(logging.WARNING)  # its message duplicates ours
    log.info("creating MLflow's database %s", file.with_suffix(""))
    engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=str(file)))

    @sqlalchemy.event.listens_for(engine, "connect")
    def disable_sync(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")  # 1 s instead of 9 s; the file is synced before it is renamed

    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    flush(file)


def _move_aside(file: Path, state: State) -> None:
    """Moves the database and SQLite's extra files aside."""
    aside = file.with_name(f"{file.name}.incomplete-{time.strftime('%Y%m%d-%H%M%S')}")
    moved = [path for path in (file, *_side_files(file)) if path.exists() and path.stat().st_size]
    for path in moved:
        path.replace(aside.with_name(aside.name + path.name.removeprefix(file.name)))
    if state is State.INCOMPLETE:
        log.warning(
            "%s: a command was interrupted while it created this database, which has no runs. Renamed to %s; a new one replaces it.",
            *(file, aside.name),
        )
    elif moved:
        log.warning("%s: the database is missing, but some of its extra files exist. They were renamed to %s*.", file, aside.name)


def _side_files(file: Path) -> list[Path]:
    return [file.with_name(file.name + ending) for ending in SIDE_FILES]


def _remove(file: Path) -> None:
    for path in (file, *_side_files(file)):
        path.unlink(missing_ok=True)
