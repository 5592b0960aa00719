"""MLflow's SQLite database on this machine: it is there with all its tables, or not at all.

MLflow makes the tables of a new database in some seventy steps. A process that is ended in between leaves a database that every later
command refuses ("table … already exists"). So the tables are made in a file beside it, which is then renamed. Incomplete databases of
MLflow itself, or of an earlier version, are recognised and moved aside.
"""

import logging
import sqlite3
import time
from contextlib import closing
from enum import Enum, auto
from pathlib import Path

import mlflow
import sqlalchemy
from filelock import FileLock

from reelnest.atomic_files import flush
from reelnest.errors import RegistryError

SQLITE = "sqlite:///"
SIDE_FILES = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database. Left beside a new database, a journal would be played back into it."""
MLFLOW_TABLES = {"experiments", "_alembic_tmp_experiments", "runs"}
"""Those that hold a row as soon as MLflow is used, and what migrations call the first one in between."""
QUIET_SECONDS = 5.0
"""An incomplete database that changed less long ago may be in the making, by a server that was started by hand."""
LOCK_TIMEOUT_SECONDS = 30.0

log = logging.getLogger(__name__)


class State(Enum):
    """What a database file is."""

    MISSING = auto()
    INCOMPLETE = auto()
    """A process was ended while it made the tables. No run is in it."""
    READY = auto()


def database_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for other stores."""
    if not uri.startswith(("sqlite:", "sqlite+")):
        return None
    name = sqlalchemy.make_url(uri).database
    return Path(name).absolute() if name and name != ":memory:" else None


def database_state(file: Path) -> State:
    """Looks into a database without changing it.

    Raises RegistryError for a file that is no SQLite database, that belongs to another program, or that another version of MLflow made.
    """
    if not file.parent.is_dir():
        raise RegistryError(
            f"tracking.uri: {SQLITE}{file}: there is no folder {file.parent} for MLflow's database. Make it, or change tracking.uri in"
            " params.yaml."
        )
    if not file.exists() or not file.stat().st_size:
        return State.MISSING
    try:
        tables, rows, revision = _contents(file)
    except sqlite3.Error as error:
        raise RegistryError(
            f"{file}: MLflow's database cannot be read: {error}. Put a backup in its place, or move it away to start with an empty one."
        ) from error
    if tables and not tables & MLFLOW_TABLES:
        raise RegistryError(f"{file}: this SQLite database belongs to another program. Set another tracking.uri in params.yaml.")
    if revision == _newest_revision():
        return State.READY
    if not rows:
        return State.INCOMPLETE
    raise RegistryError(_other_version(file, revision))


def make_database(file: Path) -> None:
    """Makes MLflow's tables in `file` where they are missing. Processes that do so at the same time wait for each other.

    An incomplete database is moved aside, and the log says where. Raises RegistryError as `database_state` does.
    """
    if database_state(file) is State.READY:
        return
    try:
        with FileLock(file.with_name(f"{file.name}.lock")):
            state = _settled_state(file)
            if state is State.READY:
                return
            unfinished = file.with_name(f"{file.name}.unfinished")  # one name: what a killed process left is removed here
            _remove(unfinished)
            try:
                _make_tables(unfinished)
                _move_aside(file, state)
                unfinished.replace(file)
            finally:
                _remove(unfinished)
            flush(file.parent)
    except OSError as error:
        raise RegistryError(f"{file}: MLflow's database cannot be made: {error.strerror or error}.") from error


def _contents(file: Path) -> tuple[set[str], bool, str | None]:
    """The tables' names, whether any experiment or run is there, and the revision of the schema."""
    with closing(sqlite3.connect(file, timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN")  # all that follows is read from one moment
        tables = {str(name) for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        # The names are constants of this module.
        rows = any(database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in tables & MLFLOW_TABLES)  # noqa: S608
        revision = database.execute("SELECT version_num FROM alembic_version").fetchone() if "alembic_version" in tables else None
    return tables, rows, None if revision is None else str(revision[0])


def _newest_revision() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision  # what `mlflow server` compares with

    return _get_latest_schema_revision()


def _other_version(file: Path, revision: str | None) -> str:
    known = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if revision is None or any(known.glob(f"{revision}_*.py")):
        return (
            f"{file}: MLflow's database was made by an older MLflow than {mlflow.__version__}, or its upgrade was interrupted."
            f" Copy the file to a safe place, then run `mlflow db upgrade {SQLITE}{file}`."
        )
    return (
        f"{file}: MLflow's database was made by a newer MLflow than {mlflow.__version__}. Install that version, or set another"
        " tracking.uri in params.yaml."
    )


def _settled_state(file: Path) -> State:
    """Waits while an incomplete database still changes: another program may be making it."""
    while (state := database_state(file)) is State.INCOMPLETE:
        files = [path for path in (file, *_side_files(file)) if path.exists()]
        rest = max(path.stat().st_mtime for path in files) + QUIET_SECONDS - time.time()
        if not 0 < rest <= QUIET_SECONDS:
            break
        time.sleep(min(rest, 0.5))
    return state


def _make_tables(file: Path) -> None:
    # The command line of MLflow (`mlflow db upgrade`) calls the same, with an engine that waits for the disk at each of the steps.
    from mlflow.store.db.utils import _initialize_tables

    logging.getLogger(_initialize_tables.__module__).setLevel(logging.WARNING)  # it says the same in other words
    log.info("making MLflow's database %s", file.with_suffix(""))
    engine = sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=str(file)))

    @sqlalchemy.event.listens_for(engine, "connect")
    def trust_the_system(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")  # 1 s in place of 9 s; nobody sees the file before it is on the disk

    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    flush(file)


def _move_aside(file: Path, state: State) -> None:
    """Leaves neither the database nor what SQLite keeps beside it."""
    aside = file.with_name(f"{file.name}.incomplete-{time.strftime('%Y%m%d-%H%M%S')}")
    moved = [path for path in (file, *_side_files(file)) if path.exists() and path.stat().st_size]
    for path in moved:
        path.replace(aside.with_name(aside.name + path.name.removeprefix(file.name)))
    if state is State.INCOMPLETE:
        log.warning(
            "%s: a command was interrupted while it made this database. No run is in it. It is now %s, and a new database is in its place.",
            *(file, aside.name),
        )
    elif moved:
        log.warning("%s: the database is gone, but not all of its files. They are now %s*.", file, aside.name)


def _side_files(file: Path) -> list[Path]:
    return [file.with_name(file.name + ending) for ending in SIDE_FILES]


def _remove(file: Path) -> None:
    for path in (file, *_side_files(file)):
        path.unlink(missing_ok=True)
