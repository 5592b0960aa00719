"""What only PostgreSQL's index has: a graph, other machines that write, addresses with passwords."""

import threading

import numpy as np
import psycopg
import pytest

from reelnest.engines.engine import Engine, open_engine
from reelnest.errors import ConfigError, DataError
from reelnest.records.formats import BadRecord
from tests.integration.engines.test_versions import DISTINCT, VECTORS, WIDTH, manifest, write


@pytest.fixture
def location(database_address: str) -> str:
    return database_address


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_exact_results_equal_numpys_with_ties_in_the_order_of_rows_even_beside_a_graph(engine: Engine, storage: str) -> None:
    write(engine, "aa", manifest(storage=storage, graph_dim=8))
    stored = VECTORS.astype(storage).astype(np.float64)
    for dim in (8, 20, WIDTH):
        prefixes = stored[:, :dim] / np.linalg.norm(stored[:, :dim], axis=1, keepdims=True)
        for row in range(0, 100, 7):
            query = VECTORS[row].astype(storage).astype(np.float64)[:dim]
            scores = prefixes @ (query / np.linalg.norm(query))
            hits = engine.search(VECTORS[row], 10, dim=dim)
            np.testing.assert_allclose(hits.scores, np.sort(scores)[::-1][:10], atol=2e-6)
            assert hits.ids[:2] == [f"v{row:03}", f"v{row + 400:03}"]


def test_the_graph_finds_what_an_exact_shortlist_finds(engine: Engine) -> None:
    write(engine, "aa", manifest(graph_dim=8))
    by_graph = [engine.search(query, 10, dim=8, shortlist=100).ids for query in DISTINCT[:50]]
    write(engine, "bb", manifest())
    exact = [engine.search(query, 10, dim=8, shortlist=100).ids for query in DISTINCT[:50]]
    recall = np.mean([len(set(found) & set(expected)) / 10 for found, expected in zip(by_graph, exact, strict=True)])
    assert recall >= 0.99


def test_another_client_finds_the_same_videos(engine: Engine, database_address: str) -> None:
    write(engine, "aa", manifest())
    address, _, name = database_address.partition("#")
    text = str(VECTORS[7].tolist())
    with psycopg.connect(address) as other:
        statement = f"select video_id, fields->>'title' from {name} order by vector <=> %s, number limit 10"  # noqa: S608 (our own name)
        rows = other.execute(statement, [text]).fetchall()
    assert [video_id for video_id, _ in rows] == engine.search(VECTORS[7], 10, dim=WIDTH).ids
    assert rows[0][1] == "it's"


def test_a_killed_writer_leaves_the_active_version_and_the_next_one_removes_its_rows(engine: Engine, database_address: str) -> None:
    write(engine, "aa", manifest())
    address, _, name = database_address.partition("#")
    killed = open_engine(database_address)
    killed.create("bb", manifest(), [BadRecord("videos.jsonl", 3, "missing", "it's gone")])
    second, waiting = open_engine(database_address), threading.Event()

    def write_second() -> None:
        second.create("cc", manifest(), [])
        waiting.set()

    thread = threading.Thread(target=write_second)
    thread.start()
    assert not waiting.wait(0.3)  # one writer at a time, on any machine
    with psycopg.connect(address) as other:  # as the server does when a writer's machine is gone
        other.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted")
    thread.join(30)
    assert waiting.is_set()
    with psycopg.connect(address) as other:
        tables = [row[0] for row in other.execute("select relname from pg_class where relkind = 'r' and relname ~ %s", [f"^{name}_"])]
    assert sorted(tables) == [f"{name}_aa", f"{name}_cc"]
    assert engine.search(VECTORS[3], 1, dim=WIDTH).ids == ["v003"]
    second.drop("cc")
    second.close()
    with pytest.raises(DataError):
        killed.upsert("bb", [])
    killed.close()


def test_a_server_that_is_away_and_a_wrong_name_are_named_without_the_password() -> None:
    with pytest.raises(DataError, match=r"postgresql://127.0.0.1:9/db#clips: .*refused") as caught:
        _ = open_engine("postgresql://me:s3cr3t@127.0.0.1:9/db#clips").manifest
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(ConfigError, match="an index's name"):
        open_engine("postgresql://me:s3cr3t@127.0.0.1/db#my clips")
