"""MLflow's local database: its creation is atomic."""

import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import sqlalchemy

from reelnest.commands import lineage, registry
from reelnest.errors import NothingTracked, RegistryError
from reelnest.registry import local_store
from reelnest.registry.connection import connect
from reelnest.registry.drift_log import champion
from reelnest.registry.lineage.lineage import trainings_of_flow_runs
from reelnest.registry.local_store import State, database_file, database_state
from reelnest.registry.versions.retention import registered, remove
from reelnest.settings import Params, Tracking
from tasks.services import mlflow_store
from tests.conftest import ROOT

MIDDLE = "c48cb773bb87"
"""A revision in the middle of MLflow's migrations."""
KILLS = 3
SEED = "moments"


def params_of(file: Path) -> Params:
    return Params(tracking=Tracking(uri=f"sqlite:///{file}"))


def change(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.executescript(";".join(statements))


def set_revision(file: Path, revision: str) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "mlflow.db"


@pytest.fixture
def incomplete(empty_store: Path, database: Path) -> Path:
    """A database after an interrupt during MLflow's migrations: it has the revision of one step and tables of later steps."""
    shutil.copy(empty_store, database)
    change(database, "DELETE FROM experiments", "DROP TABLE webhooks")
    set_revision(database, MIDDLE)
    return database


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does not wait for another program that may be creating an incomplete database."""
    monkeypatch.setattr(local_store, "QUIET_SECONDS", 0.0)


class Makers:
    """The helper process of `store_makers`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def make(self, file: Path, seconds: float = 0, signal: str = "none") -> float:
        """The number of seconds that the child lived."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds} {signal} {file}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@pytest.fixture(scope="module")
def makers() -> Iterator[Makers]:
    command = [sys.executable, "-m", "tests.integration.registry.store_makers"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield Makers(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def making_seconds(makers: Makers, tmp_path_factory: pytest.TempPathFactory) -> float:
    file = tmp_path_factory.mktemp("whole") / "mlflow.db"
    seconds = makers.make(file)
    assert database_state(file) is State.READY
    return seconds


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_process_killed_at_any_time_leaves_a_complete_database_or_none(
    signal: str, makers: Makers, making_seconds: float, tmp_path: Path
) -> None:
    drawn = random.Random(SEED + signal)
    interrupted = 0
    for number in range(KILLS):
        file = tmp_path / str(number) / "mlflow.db"
        file.parent.mkdir()
        makers.make(file, (number + drawn.random()) / KILLS * making_seconds, signal)
        interrupted += not file.exists()
        assert not file.exists() or database_state(file) is State.READY
        connect(params_of(file))
        assert {path.name for path in file.parent.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}
    assert interrupted


def test_concurrent_processes_create_one_database(tmp_path: Path, database: Path) -> None:
    threads = [threading.Thread(target=local_store.make_database, args=(database,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database_state(database) is State.READY
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_mlflow_itself_cannot_use_an_incomplete_database(incomplete: Path) -> None:
    """This is why incomplete databases are moved aside. If this test fails, MLflow now repairs them itself."""
    with pytest.raises(sqlalchemy.exc.OperationalError, match="already exists"):
        mlflow.MlflowClient(f"sqlite:///{incomplete}").search_experiments()


@pytest.mark.usefixtures("at_once")
def test_an_incomplete_database_is_moved_aside(incomplete: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = incomplete.read_bytes()
    connect(params_of(incomplete))
    assert database_state(incomplete) is State.READY
    (aside,) = incomplete.parent.glob("mlflow.db.incomplete-*")
    assert aside.read_bytes() == before
    assert aside.name in caplog.text
    assert "interrupted" in caplog.text


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("table", ["experiments", "_alembic_tmp_experiments"])
def test_a_database_after_the_first_steps_is_recognised_too(table: str, database: Path) -> None:
    change(database, f"CREATE TABLE {table} (experiment_id INTEGER)")
    assert database_state(database) is State.INCOMPLETE
    connect(params_of(database))
    assert database_state(database) is State.READY


def test_a_database_that_another_program_is_creating_is_left_alone(
    incomplete: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_store, "QUIET_SECONDS", 60.0)

    def finish() -> None:
        time.sleep(0.7)
        shutil.copy(empty_store, incomplete.with_name("other"))
        incomplete.with_name("other").replace(incomplete)

    program = threading.Thread(target=finish)
    program.start()
    connect(params_of(incomplete))
    program.join()
    assert not list(incomplete.parent.glob("mlflow.db.incomplete-*"))


def test_an_empty_file_becomes_a_database(database: Path) -> None:
    database.touch()
    connect(params_of(database))
    assert database_state(database) is State.READY


def test_an_old_journal_is_not_applied_to_a_new_database(database: Path) -> None:
    journal = database.with_name("mlflow.db-journal")
    journal.write_bytes(b"of a database that was removed")
    connect(params_of(database))
    assert not journal.exists()
    (aside,) = database.parent.glob("mlflow.db.incomplete-*-journal")
    assert aside.read_bytes() == b"of a database that was removed"


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        (MIDDLE, r"older MLflow .* run `mlflow db upgrade sqlite:///.*/mlflow\.db`"),
        ("f00000000000", "newer MLflow .* Install that version"),
    ],
)
def test_runs_of_another_version_of_mlflow_are_never_moved(revision: str, expected: str, empty_store: Path, database: Path) -> None:
    shutil.copy(empty_store, database)
    set_revision(database, revision)
    before = database.read_bytes()
    with pytest.raises(RegistryError, match=expected):
        connect(params_of(database))
    assert database.read_bytes() == before


def test_a_database_of_another_program_is_refused(database: Path) -> None:
    change(database, "CREATE TABLE flow_run (id TEXT)", "CREATE TABLE alembic_version (version_num TEXT)")
    with pytest.raises(RegistryError, match=r"belongs to another program\. Set another tracking\.uri"):
        connect(params_of(database))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_database_is_named(share: float, empty_store: Path, database: Path) -> None:
    content = empty_store.read_bytes()
    database.write_bytes(content[: int(len(content) * share)] or b"text, and no database" * 100)
    with pytest.raises(RegistryError, match=r"mlflow\.db: MLflow's database cannot be read: .* Put a backup in its place"):
        connect(params_of(database))


@pytest.mark.usefixtures("at_once")
def test_make_up_creates_the_database_before_its_server_starts(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow_store, "prepare_process", lambda: None)  # it configures logging for a separate process
    assert mlflow_store.main(database) == 0
    assert database_state(database) is State.READY
    change(database, "INSERT INTO experiments (experiment_id, name) VALUES (9, 'mine')")
    set_revision(database, "f00000000000")
    assert mlflow_store.main(database) == 1
    assert "newer MLflow" in capsys.readouterr().err


def test_the_file_of_an_address_is_known() -> None:
    assert database_file("sqlite:////srv/mlflow.db?timeout=9") == Path("/srv/mlflow.db")
    assert database_file("sqlite:///mlflow.db") == Path.cwd() / "mlflow.db"
    assert database_file("sqlite://") is None
    assert database_file("http://127.0.0.1:5000") is None
    for address in ("sqlite:////srv/a b/#x%20/mlflow.db", "sqlite+pysqlite:///ü/mlflow.db", "sqlite:///:memory:", "sqlite:///a?b=/c"):
        name = sqlalchemy.make_url(address).database
        assert database_file(address) == (None if name == ":memory:" else Path(name or "").absolute())


def test_commands_that_only_read_create_no_database(database: Path) -> None:
    params = params_of(database)
    assert f"no database {database}" in registry.table(params)
    assert registered(params) == []
    assert champion(params) is None
    remove(params, [], [])
    for command in (
        lambda: lineage.show(params, "champion", as_json=False),
        lambda: lineage.versions(params, "0123456789"),
        lambda: registry.promote(params, "1"),
        lambda: registry.rollback(params),
        lambda: trainings_of_flow_runs(params, "0123"),
    ):
        with pytest.raises(NothingTracked, match="no runs and no models yet"):
            command()
    assert list(database.parent.iterdir()) == []


def test_commands_that_only_read_report_an_incomplete_database(incomplete: Path) -> None:
    before = incomplete.read_bytes()
    assert "interrupted while it created MLflow's database" in registry.table(params_of(incomplete))
    assert incomplete.read_bytes() == before


def test_commands_that_only_read_create_no_experiment(empty_store: Path, database: Path) -> None:
    shutil.copy(empty_store, database)
    params = params_of(database)
    assert "no version of 'reelnest' yet" in registry.table(params)
    assert trainings_of_flow_runs(params, "0123") == []
    assert mlflow.get_experiment_by_name(params.tracking.experiment) is None
