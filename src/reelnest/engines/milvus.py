"""The engine for Milvus 2.4 or newer: a collection for each version of the index, and an alias of the active one.

`milvus+http://host:19530/database#videos` is the index `videos` of a server (the database may be left out), with `milvus+https://` over
TLS. A token is read from MILVUS_TOKEN, or from the address (`milvus+https://user:password@host`). `milvus-lite://clips.db` is a file of
Milvus Lite, which one process at a time can open. Requires `pip install 'reelnest[milvus]'`.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np

from reelnest.engines.collections import MOST_SKIPPED, CollectionsEngine, Request, Row, index_name
from reelnest.engines.engine import ENGINES, Item, Manifest, Vector, bytes_below, optional_module, shown
from reelnest.engines.milvus_filter import expression, filtered_fields, quoted
from reelnest.engines.stored import about, manifest_of, video_of
from reelnest.errors import ConfigError, DataError, NoIndex
from reelnest.records.formats import BadRecord, Video

if TYPE_CHECKING:
    from pymilvus import MilvusClient

MOST_VECTORS = 4
"""Fields of vectors that a collection of a Milvus server has by default (`proxy.maxVectorFieldNum`)."""
MOST_ROWS = 16_384
"""Rows that Milvus returns at most."""
LONGEST_TEXT = 65_535
"""Bytes of a text field, which Milvus limits."""
LITE = "milvus-lite"
GRAPH_FIELD = "graph"


_OPENED: Counter[str] = Counter()
"""The engines of this process that have a file of Milvus Lite open. They share its server, which has a lock on the file."""


@ENGINES.register("milvus+http")
@ENGINES.register("milvus+https")
@ENGINES.register(LITE)
class MilvusEngine(CollectionsEngine):
    """An index in Milvus. The vectors are compared exactly, and a funnel may take its shortlist from a graph, in two requests."""

    storages = ("float32",)

    def __init__(self, location: str) -> None:
        """Raises ConfigError if pymilvus is not installed, or for an index's name or a file's that Milvus does not accept."""
        super().__init__()
        self._address, _, name = location.partition("#")
        self.name = name or "reelnest"
        self.place = shown(f"{self._address}#{name}" if name else self._address)
        index_name(self.name, self.place)
        if self._address.startswith(LITE) and not self._address.endswith(".db"):
            raise ConfigError(f"{self.place}: a file of Milvus Lite has a name that ends in .db.")
        self._api = optional_module("pymilvus", "milvus", self.place)
        for logger in ("pymilvus", "milvus_lite"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)  # they log each error that `_errors` names
        self._connected: MilvusClient | None = None
        self._loaded: set[str] = set()

    def stored_dims(self, manifest: Manifest) -> tuple[int, ...]:
        """Returns the prefixes that are stored: the smallest one and the largest ones, as many as a collection may have."""
        most = MOST_VECTORS - (manifest.graph_dim is not None)
        return manifest.dims if len(manifest.dims) <= most else (manifest.dims[0], *manifest.dims[1 - most :])

    def disk_bytes(self) -> int | None:
        """See `Engine.disk_bytes`. A file of Milvus Lite may hold the version before, too."""
        return bytes_below(Path(self._file())) if self._address.startswith(LITE) else None

    def close(self) -> None:
        """Closes the connection, and the file of Milvus Lite."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None
            if self._address.startswith(LITE):
                _release(self._file())
        self._opened = None
        self._loaded.clear()

    def _file(self) -> str:
        return str(Path(self._address.partition("://")[2]).absolute())

    @property
    def _client(self) -> Any:
        if self._connected is None:
            if self._address.startswith(LITE):
                self._connected = self._api.MilvusClient(self._file())
                _OPENED[self._file()] += 1
            else:
                parts = urlsplit(self._address.removeprefix("milvus+"))
                user, password = unquote(parts.username or ""), unquote(parts.password or "")
                token = f"{user}:{password}" if password else os.environ.get("MILVUS_TOKEN", "")
                server = parts._replace(netloc=parts.netloc.rpartition("@")[2], path="").geturl()
                self._connected = self._api.MilvusClient(server, token=token, db_name=parts.path.strip("/"))
        return self._connected

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except MilvusException as error:
            reason = (str(error.message).strip().splitlines() or [type(error).__name__])[0].removesuffix(".")
            hint = " Another process may have it open." if self._address.startswith(LITE) and self._connected is None else ""
            raise DataError(f"{self.place}: {reason}.{hint}") from None

    def _aliased(self) -> list[str]:
        named = (self._target(alias) for alias in (self.name, f"{self.name}_before"))
        return [collection.removeprefix(f"{self.name}_") for collection in named if collection is not None]

    def _target(self, alias: str) -> str | None:
        try:
            return str(self._client.describe_alias(alias)["collection_name"])
        except self._api.MilvusException as error:
            if "not exist" in str(error) or "not found" in str(error):
                return None
            raise

    def _alias(self, version: str, before: str | None) -> None:
        # Milvus moves an alias in one step, but only one alias.
        for alias, target in ((f"{self.name}_before", before), (self.name, version)):
            if target is not None:
                change = self._client.create_alias if self._target(alias) is None else self._client.alter_alias
                change(self._collection(target), alias)

    def _versions(self) -> list[str]:
        versions = [name.removeprefix(f"{self.name}_") for name in self._client.list_collections() if name.startswith(f"{self.name}_")]
        return [version for version in versions if all(digit in "0123456789abcdef" for digit in version)]

    def _manifest(self, version: str) -> Manifest:
        self._load(self._manifests)
        stored = self._client.query(
            self._manifests, filter=f"version == {quoted(version)}", output_fields=["number", "content"], consistency_level="Strong"
        )
        if not stored:
            raise NoIndex(f"{self.place}: the index has no manifest. Run `reelnest index` to rebuild it.")
        text = "".join(row["content"] for row in sorted(stored, key=lambda row: row["number"]))
        return manifest_of(json.loads(text)["manifest"], self.place)

    def _create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None:
        kind, client = self._api.DataType, self._client
        if not client.has_collection(self._manifests):
            schema = client.create_schema()
            schema.add_field("id", kind.VARCHAR, is_primary=True, max_length=100)
            schema.add_field("version", kind.VARCHAR, max_length=100)
            schema.add_field("number", kind.INT64)
            schema.add_field("content", kind.VARCHAR, max_length=LONGEST_TEXT)
            schema.add_field("unused", kind.FLOAT_VECTOR, dim=2)  # Milvus wants a vector in each collection
            client.create_collection(self._manifests, schema=schema)
            _create_index(client, self._manifests, "unused", "FLAT")
        self._load(self._manifests)
        listed = [asdict(record) for record in list(skipped)[:MOST_SKIPPED]]
        text = json.dumps({"manifest": manifest.model_dump(mode="json"), "skipped": listed})
        pieces = [text[start : start + LONGEST_TEXT] for start in range(0, len(text), LONGEST_TEXT)]
        rows = [
            {"id": f"{version}-{number}", "version": version, "number": number, "content": piece, "unused": [1.0, 0.0]}
            for number, piece in enumerate(pieces)
        ]
        client.insert(self._manifests, rows)
        client.flush(self._manifests)
        schema = client.create_schema()
        schema.add_field("number", kind.INT64, is_primary=True)
        schema.add_field("video_id", kind.VARCHAR, max_length=LONGEST_TEXT)
        schema.add_field("key", kind.VARCHAR, max_length=100)
        for name in ("about", "texts", "numbers"):
            schema.add_field(name, kind.JSON)
        for name, dim in self._vector_fields(manifest).items():
            schema.add_field(name, kind.FLOAT_VECTOR, dim=dim)
        client.create_collection(self._collection(version), schema=schema)

    def _vector_fields(self, manifest: Manifest) -> dict[str, int]:
        fields = {f"dim{dim}": dim for dim in self.stored_dims(manifest)}
        return fields if manifest.graph_dim is None else {**fields, GRAPH_FIELD: manifest.graph_dim}

    def _insert(self, version: str, manifest: Manifest, start: int, items: Sequence[Item]) -> None:
        fields = self._vector_fields(manifest)
        rows = [
            {
                "number": number,
                "video_id": item.video.video_id,
                "key": item.key,
                "about": {**about(item.video), "fields": dict(item.video.fields), "tags": dict(item.video.tags)},
                **filtered_fields(item.video, manifest.tags),
                **{name: item.vector[:dim].astype(np.float32) for name, dim in fields.items()},
            }
            for number, item in enumerate(items, start)
        ]
        if rows:
            self._client.insert(self._collection(version), rows)

    def _build(self, version: str, manifest: Manifest) -> None:
        collection, client = self._collection(version), self._client
        client.flush(collection)
        for name in self._vector_fields(manifest):
            _create_index(client, collection, name, "HNSW" if name == GRAPH_FIELD else "FLAT")
        self._load(collection)
        counted = client.query(collection, filter="", output_fields=["count(*)"], consistency_level="Strong")
        if counted[0]["count(*)"] != manifest.videos:
            raise DataError(f"{self.place}: expected {manifest.videos} rows in the new version, found {counted[0]['count(*)']}.")

    def _drop(self, version: str) -> None:
        self._client.drop_collection(self._collection(version))
        self._loaded.discard(self._collection(version))
        if self._client.has_collection(self._manifests):
            self._load(self._manifests)
            self._client.delete(self._manifests, filter=f"version == {quoted(version)}")

    def _rows(self, version: str, manifest: Manifest, request: Request) -> list[Row]:
        condition = "" if request.condition is None else expression(request.condition)
        if request.shortlist is None:
            return self._nearest(version, f"dim{request.dim}", request.vector[: request.dim], request.size, condition)
        by_graph = request.dim == manifest.graph_dim and request.condition is None
        field = GRAPH_FIELD if by_graph else f"dim{request.dim}"
        rows = self._nearest(version, field, request.vector[: request.dim], request.shortlist, condition)
        if not rows:
            return []
        selected = f"number in [{', '.join(str(row.number) for row in rows)}]"
        return self._nearest(version, f"dim{manifest.width}", request.vector, request.size, selected)

    def _nearest(self, version: str, field: str, vector: Any, size: int, condition: str) -> list[Row]:
        size = min(size, MOST_ROWS)
        parameters = {"metric_type": "COSINE", "params": {"ef": max(size, 64)} if field == GRAPH_FIELD else {}}
        (hits,) = self._client.search(
            self._loaded_collection(version),
            [vector],
            anns_field=field,
            limit=size,
            filter=condition,
            output_fields=["number", "video_id"],
            search_params=parameters,
        )
        return [Row(hit["distance"], hit["number"], hit["entity"]["video_id"]) for hit in hits]

    def _videos(self, version: str, ids: Sequence[str]) -> dict[str, Video]:
        videos = {}
        for row in self._where(version, "video_id", ids, ["video_id", "about"]):
            stored = row["about"] if isinstance(row["about"], dict) else json.loads(row["about"])
            videos[row["video_id"]] = video_of(stored, stored["fields"], stored["tags"])
        return videos

    def _keys(self, version: str, keys: Sequence[str]) -> dict[str, int]:
        return {row["key"]: row["number"] for row in self._where(version, "key", keys, ["key", "number"])}

    def _vectors(self, version: str, manifest: Manifest, keys: Sequence[str]) -> dict[str, Vector]:
        name = f"dim{manifest.width}"
        return {row["key"]: np.array(row[name], np.float32) for row in self._where(version, "key", keys, ["key", name])}

    def _where(self, version: str, field: str, values: Sequence[str], output: list[str]) -> Sequence[Any]:
        collection = self._loaded_collection(version)
        if not values:
            return []
        return self._client.query(collection, filter=f"{field} in [{', '.join(map(quoted, values))}]", output_fields=output)

    def _loaded_collection(self, version: str) -> str:
        self._load(self._collection(version))
        return self._collection(version)

    def _load(self, collection: str) -> None:
        """Loads a collection: Milvus searches only loaded ones. Milvus Lite loads none when it opens its file."""
        if collection not in self._loaded:
            self._client.load_collection(collection)
            self._loaded.add(collection)

    @property
    def _manifests(self) -> str:
        return f"{self.name}_manifests"

    def _collection(self, version: str) -> str:
        return f"{self.name}_{version}"


def _release(file: str) -> None:
    from milvus_lite.server_manager import server_manager_instance

    _OPENED[file] -= 1
    if not _OPENED[file]:
        server_manager_instance.release_server(file)


def _create_index(client: Any, collection: str, field: str, kind: str) -> None:
    index = client.prepare_index_params()
    index.add_index(field, index_type=kind, metric_type="COSINE", params={"M": 16, "efConstruction": 200} if kind == "HNSW" else {})
    client.create_index(collection, index, sync=kind != "FLAT")  # FLAT builds nothing, and a check of its state takes half a second
