"""The engine for PostgreSQL with the extension pgvector, 0.7 or newer: a table for each version of the index, and a view of the active one.

`postgresql://user@host/db#videos` is the index `videos` of a database. Its view `videos` has a row for each video: `video_id`, `vector`,
`fields` and `tags` (JSON) and what reelnest needs. The view's comment holds the manifest. Any client can search it:

    select video_id from videos order by vector <=> '[0.1, …]' limit 10;

Requires `pip install 'reelnest[pgvector]'`.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reelnest.engines.collections import index_name
from reelnest.engines.engine import ENGINES, Hits, Item, Manifest, Vector, optional_module, shown
from reelnest.engines.pgvector_sql import binary_vector, exact_search, funnel_search, prefix, text_vector, where_clause
from reelnest.engines.stored import StoredVectors, manifest_of, video_of
from reelnest.errors import DataError, ModelError, NoIndex, QueryError
from reelnest.records.formats import BadRecord, Video
from reelnest.search.filters import Filter

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

    Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

COLUMN_TYPES = {"float32": "vector", "float16": "halfvec"}
ON_THE_WIRE = {"float32": ">f4", "float16": ">f2"}
LARGEST_SHORTLIST = 1000
"""The most candidates that pgvector's graph returns (`hnsw.ef_search`). A longer shortlist is searched exactly."""
CONNECT_TIMEOUT_SECONDS = 10
MOST_CONNECTIONS = 8


@dataclass(frozen=True)
class _Opened:
    """A version that was active when it was opened."""

    version: str
    manifest: Manifest


@ENGINES.register("postgresql")
class PgvectorEngine:
    """An index in PostgreSQL. Threads may search it concurrently.

    An opened index follows the active version as long as the versions have the same model. The version before the active one stays in the
    database, so that a search that has begun finds its rows.
    """

    storages = tuple(COLUMN_TYPES)

    def __init__(self, location: str) -> None:
        """Raises ConfigError if psycopg is not installed, or if the index's name is not a plain SQL name."""
        self._address, _, name = location.partition("#")
        self.name = name or "reelnest"
        self.place = shown(f"{self._address}#{self.name}")
        index_name(self.name, self.place)
        pools = optional_module("psycopg_pool", "pgvector", self.place)
        self._pool: ConnectionPool[Connection] = pools.ConnectionPool(
            self._address,
            min_size=1,
            max_size=MOST_CONNECTIONS,
            open=False,
            check=pools.ConnectionPool.check_connection,  # a server that was started anew closed the connections
            timeout=CONNECT_TIMEOUT_SECONDS,
            kwargs={"autocommit": True},
        )
        self._writer: Connection | None = None
        self._unfinished: dict[str, Manifest] = {}
        self._written = 0

    def create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None:
        """See `Engine.create`. Waits for another machine that writes the same index."""
        with self._writing() as writer:
            writer.execute("create extension if not exists vector")
            writer.execute("select pg_advisory_lock(hashtext(%s))", [f"reelnest {self.name}"])
            for orphan in set(self._versions(writer)) - set(self._present(writer)):
                writer.execute(f"drop table {self._table(orphan)}")
            vector = f"{COLUMN_TYPES[manifest.storage]}({manifest.width})"
            writer.execute(
                f"create table {self._table(version)} (number bigint not null, video_id text not null, key text not null,"
                f" vector {vector} not null, path text, images jsonb not null, fields jsonb not null, tags jsonb not null,"
                " line bigint not null, start_seconds float8, end_seconds float8)"
            )
            _comment(writer, f"table {self._table(version)}", {"skipped": [asdict(record) for record in skipped]})
        self._unfinished[version] = manifest
        self._written = 0

    def upsert(self, version: str, items: Sequence[Item]) -> None:
        """See `Engine.upsert`."""
        from psycopg.types.json import Jsonb

        number_type = ON_THE_WIRE[self._unfinished[version].storage]
        statement = f"copy {self._table(version)} from stdin (format binary)"
        with self._writing() as writer, writer.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(["int8", "text", "text", "bytea", "text", "jsonb", "jsonb", "jsonb", "int8", "float8", "float8"])
            for item in items:
                video, vector = item.video, binary_vector(item.vector, number_type)
                about = (Jsonb(list(video.images)), Jsonb(video.fields), Jsonb(video.tags))
                times = (None, None) if video.segment is None else (video.segment.start, video.segment.end)
                copy.write_row((self._written, video.video_id, item.key, vector, video.path, *about, video.line, *times))
                self._written += 1

    def build(self, version: str) -> None:
        """See `Engine.build`."""
        manifest, table = self._unfinished[version], self._table(version)
        with self._writing() as writer:
            writer.execute(f"alter table {table} add primary key (video_id)")
            writer.execute(f"create index on {table} (key)")
            if manifest.graph_dim is not None:
                kind = COLUMN_TYPES[manifest.storage]
                writer.execute(f"create index on {table} using hnsw (({prefix(kind, manifest.graph_dim)}) {kind}_cosine_ops)")
            writer.execute(f"analyze {table}")

    def activate(self, version: str) -> None:
        """See `Engine.activate`. Keeps the version before, for searches that have begun."""
        manifest = self._unfinished.pop(version)
        with self._writing() as writer:
            before = (self._state(writer) or {}).get("version")
            with writer.transaction():
                # `create or replace` refuses to change the type of a column.
                writer.execute(f"drop view if exists {self.name}")
                writer.execute(f"create view {self.name} as select * from {self._table(version)}")
                _comment(writer, f"view {self.name}", {"version": version, "before": before, "manifest": manifest.model_dump(mode="json")})
            for old in set(self._versions(writer)) - {version, before}:
                writer.execute(f"drop table {self._table(old)}")
        self.__dict__.pop("_opened", None)
        self._stop_writing()

    def drop(self, version: str) -> None:
        """See `Engine.drop`."""
        if self._unfinished.pop(version, None) is not None:
            with self._writing() as writer:
                writer.execute(f"drop table if exists {self._table(version)}")
        self._stop_writing()

    @property
    def manifest(self) -> Manifest:
        """The manifest of the opened version. Raises NoIndex if there is none, DataError without a connection."""
        return self._opened.manifest

    def search(
        self, query: NDArray[np.float32], k: int, *, dim: int, shortlist: int | None = None, condition: Filter | None = None
    ) -> Hits:
        """See `Engine.search`. A funnel is one statement. With a filter, the shortlist is exact, because a graph loses results then."""
        with self._reading() as reader:
            opened = self._follow(reader)
            width = opened.manifest.width
            is_funnel = shortlist is not None and dim != width
            size = max(shortlist or 0, k)
            by_graph = is_funnel and dim == opened.manifest.graph_dim and size <= LARGEST_SHORTLIST and condition is None
            table, kind = self._table(opened.version), COLUMN_TYPES[opened.manifest.storage]
            numbers = np.atleast_2d(query)[0]
            parameters: dict[str, Any] = {"full": text_vector(numbers), "prefix": text_vector(numbers[:dim])}
            where = "" if condition is None else where_clause(condition, parameters)
            if is_funnel:
                statement = funnel_search(table, kind, (dim, width), (size, k), where, by_graph=by_graph)
            else:
                statement = exact_search(table, kind, dim, k, where)
            with reader.transaction():
                reader.execute(f"set local hnsw.ef_search = {size:d}" if by_graph else "set local enable_indexscan = off")
                rows = reader.execute(statement, parameters).fetchall()
        scores = [score for _, score in rows]
        if any(score is None or score != score for score in scores):
            raise ModelError(f"{self.place}: a score is NaN. The query's vector, or one of the index, is zero or not finite at dim {dim}.")
        return Hits([video_id for video_id, _ in rows], scores, (dim, width) if is_funnel else (dim,))

    def get(self, ids: Sequence[str]) -> list[Video]:
        """See `Engine.get`. Finds also the videos of the version before, with which a search may have begun."""
        with self._reading() as reader:
            videos = self._videos(reader, self._follow(reader).version, ids)
            if len(videos) < len(set(ids)):
                for version in self._present(reader):
                    videos = self._videos(reader, version, ids) | videos
        if any(video_id not in videos for video_id in ids):
            raise QueryError("The index has no video of this id.")
        return [videos[video_id] for video_id in ids]

    def _videos(self, reader: "Connection", version: str, ids: Sequence[str]) -> dict[str, Video]:
        from psycopg.rows import dict_row

        columns = "video_id, path, images, fields, line, tags, start_seconds, end_seconds"
        statement = f"select {columns} from {self._table(version)} where video_id = any(%s)"
        rows = reader.cursor(row_factory=dict_row).execute(statement, [list(ids)])
        return {row["video_id"]: video_of(row, row["fields"], row["tags"]) for row in rows}

    def vectors(self, keys: Collection[str]) -> Mapping[str, Vector]:
        """Returns a mapping that reads vectors in blocks when they are looked up; see `Engine.vectors`."""
        table, storage = self._table(self._opened.version), self.manifest.storage
        with self._reading() as reader:
            stored = reader.execute(f"select key from {table} where key = any(%s) order by number", [list(keys)]).fetchall()

        def read(block: Sequence[str]) -> dict[str, Vector]:
            with self._reading() as reader:
                rows = reader.execute(f"select key, vector::real[] from {table} where key = any(%s)", [list(block)], binary=True)
                return {key: np.asarray(numbers, dtype=storage) for key, numbers in rows}

        return StoredVectors(dict.fromkeys(key for (key,) in stored), read)

    def disk_bytes(self) -> int:
        """See `Engine.disk_bytes`."""
        with self._reading() as reader:
            row = reader.execute("select pg_total_relation_size(%s::regclass)", [self._table(self._opened.version)]).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Closes the connections."""
        self._stop_writing()
        self._pool.close()
        self.__dict__.pop("_opened", None)

    @cached_property
    def _opened(self) -> _Opened:
        with self._reading() as reader:
            state = self._state(reader)
        if state is None:
            raise NoIndex(f"{self.place}: there is no index. Run `reelnest index --to ADDRESS` to make one.")
        return self._read_state(state)

    def _follow(self, reader: "Connection") -> _Opened:
        """Returns the active version if it has the opened one's model, else the opened one. Raises DataError if that one is gone."""
        state = self._state(reader)
        if state is not None and state["version"] != self._opened.version:
            active = self._read_state(state)
            if active.manifest.model_hash == self._opened.manifest.model_hash:
                self.__dict__["_opened"] = active
            elif self._opened.version not in self._versions(reader):
                raise DataError(f"{self.place}: the index was made again with another model. Open it again.")
        return self._opened

    def _read_state(self, state: Mapping[str, Any]) -> _Opened:
        return _Opened(state["version"], manifest_of(state["manifest"], self.place))

    def _state(self, connection: "Connection") -> dict[str, Any] | None:
        """Returns the comment of the view: the versions and the manifest. None without an index."""
        row = connection.execute("select obj_description(to_regclass(%s), 'pg_class')", [self.name]).fetchone()
        return None if row is None or row[0] is None else json.loads(row[0])

    def _present(self, connection: "Connection") -> list[str]:
        """Returns the active version and the one before, as far as they exist."""
        state, stored = self._state(connection) or {}, self._versions(connection)
        return [version for version in (state.get("version"), state.get("before")) if version in stored]

    def _versions(self, connection: "Connection") -> list[str]:
        tables = "select relname from pg_class where relkind = 'r' and relname ~ %s and pg_table_is_visible(oid)"
        names = connection.execute(tables, [f"^{self.name}_[0-9a-f]+$"]).fetchall()
        return [name.removeprefix(f"{self.name}_") for (name,) in names]

    def _table(self, version: str) -> str:
        return f"{self.name}_{version}"

    @contextmanager
    def _reading(self) -> Iterator["Connection"]:
        with self._errors(), self._opened_pool().connection() as reader:
            yield reader

    @contextmanager
    def _writing(self) -> Iterator["Connection"]:
        """The one connection that writes. It holds the lock of the index until `_stop_writing`."""
        with self._errors():
            if self._writer is None:
                self._writer = self._opened_pool().getconn()
            yield self._writer

    def _stop_writing(self) -> None:
        if self._writer is not None:
            self._writer.close()  # which gives up the lock, also amid a failed statement
            self._pool.putconn(self._writer)
            self._writer = None

    def _opened_pool(self) -> Any:
        import psycopg

        if self._pool.closed:
            # The pool only says that it waited in vain. A connection by itself says why, at once.
            psycopg.connect(self._address, connect_timeout=CONNECT_TIMEOUT_SECONDS).close()
            self._pool.open()
        return self._pool

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns the errors of the database into DataErrors that name the address without its password."""
        import psycopg

        try:
            yield
        except psycopg.errors.FeatureNotSupported as error:
            raise DataError(
                f"{self.place}: {_first_line(error)}. The server needs pgvector: https://github.com/pgvector/pgvector."
            ) from None
        except psycopg.Error as error:
            unreached = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
            advice = " Check the address, the password (PGPASSWORD) and that the server runs." if unreached else ""
            raise DataError(f"{self.place}: {_first_line(error)}.{advice}") from None


def _comment(writer: "Connection", described: str, content: Mapping[str, Any]) -> None:
    from psycopg import sql

    writer.execute(sql.SQL("comment on {} is {}").format(sql.SQL(described), sql.Literal(json.dumps(content))))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].removesuffix(".")
