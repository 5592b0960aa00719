"""What only a server's index has: other clients, other machines, a change of versions while it is searched."""

import threading
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest

from reelnest.engines.engine import Engine, Item, Manifest, open_engine
from reelnest.errors import ConfigError, DataError
from reelnest.records.formats import BadRecord, Video

WIDTH = 32
DISTINCT = np.random.default_rng(1).normal(size=(400, WIDTH)).astype(np.float32)
DISTINCT /= np.linalg.norm(DISTINCT, axis=1, keepdims=True)
VECTORS = np.concatenate([DISTINCT, DISTINCT[:100]])
"""The last hundred are ties."""


def manifest(**changes: object) -> Manifest:
    values = {
        "format_version": 1, "model": "m", "model_hash": "0123", "base": "tiny", "dims": (8, WIDTH), "data": "data", "data_hash": "4567",
        "storage": "float32", "graph_dim": None, "videos": len(VECTORS), "skipped": 0,
    }  # fmt: skip
    return Manifest.model_validate(values | changes)


def write(engine: Engine, version: str, described: Manifest, prefix: str = "v") -> None:
    engine.create(version, described, [])
    engine.upsert(
        version,
        [
            Item(Video(f"{prefix}{row:03}", f"{row}.mp4", (), {"title": "it's"}, row + 1), str(row), vector.astype(described.storage))
            for row, vector in enumerate(VECTORS)
        ],
    )
    engine.build(version)
    engine.activate(version)


@pytest.fixture
def engine(database_address: str) -> Iterator[Engine]:
    opened = open_engine(database_address)
    yield opened
    opened.close()


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


def test_no_search_fails_or_mixes_versions_while_the_index_is_made_anew(engine: Engine, database_address: str) -> None:
    write(engine, "aa", manifest(), "a")
    searcher, faults, searches, done = open_engine(database_address), [], [0], threading.Event()

    def search() -> None:
        while not done.is_set():
            try:
                ids = searcher.search(VECTORS[3], 10, dim=WIDTH).ids
                found = [video.video_id for video in searcher.get(ids)]
                if found != list(ids) or len({video_id[0] for video_id in ids}) != 1:
                    faults.append(str(ids))
            except Exception as error:  # noqa: BLE001 (any is a fault)
                faults.append(repr(error))
            searches[0] += 1

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(4):
        write(engine, f"b{number}", manifest(), "bcde"[number])
    done.set()
    for thread in threads:
        thread.join()
    assert searcher.search(VECTORS[3], 1, dim=WIDTH).ids == ["e003"]
    searcher.close()
    assert not faults
    assert searches[0] > 20


def test_vectors_are_read_in_blocks_in_any_order(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelnest.engines.stored_vectors.BLOCK_VECTORS", 7)
    write(engine, "aa", manifest(storage="float16"))
    stored = engine.vectors([*map(str, range(0, 500, 3)), "none"])
    assert list(stored) == [str(row) for row in range(0, 500, 3)]
    assert "none" not in stored
    for row in (300, 0, 3, 6, 21, 498, 297):
        np.testing.assert_array_equal(stored[str(row)], VECTORS[row].astype(np.float16))


def test_a_server_that_only_sends_clips_follows_two_versions(engine: Engine, database_address: str) -> None:
    write(engine, "aa", manifest())
    opened = open_engine(database_address)
    assert opened.manifest.videos == len(VECTORS)
    for version in ("bb", "cc"):  # the opened version is gone after the second
        write(engine, version, manifest())
    assert [video.path for video in opened.get(["v300", "v002"])] == ["300.mp4", "2.mp4"]
    opened.close()


def test_an_index_of_another_model_is_not_followed(engine: Engine, database_address: str) -> None:
    write(engine, "aa", manifest(), "a")
    opened = open_engine(database_address)
    assert opened.manifest.model_hash == "0123"
    write(engine, "bb", manifest(model_hash="9999"), "b")
    assert opened.search(VECTORS[3], 1, dim=WIDTH).ids == ["a003"]
    write(engine, "cc", manifest(model_hash="9999"), "c")
    with pytest.raises(DataError, match="made again with another model"):
        opened.search(VECTORS[3], 1, dim=WIDTH)
    opened.close()


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
    assert not waiting.wait(1)  # one writer at a time, on any machine
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
