"""The engine for a folder of Qdrant Edge, Qdrant's core in this process: a shard for each version of the index.

`qdrant-edge://clips` is the folder `clips`, `qdrant-edge:///srv/clips` an absolute one. `active.json` names the version that is searched.
Any number of processes may search a folder. Requires `pip install 'reelnest[qdrant]'`.
"""

import json
import re
import shutil
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelnest.atomic_files import flush, flush_folder, write_json
from reelnest.engines.collections import Request, Row
from reelnest.engines.engine import ENGINES, Item, Manifest, bytes_below, optional_module
from reelnest.engines.qdrant_requests import (
    INDEXED_FROM_KILOBYTES,
    PAGE_RECORDS,
    QdrantCollections,
    indexed_paths,
    payload,
    search_params,
    text_path,
    vector_name,
    vectors_of,
)
from reelnest.engines.stored import manifest_of
from reelnest.errors import ConfigError, DataError
from reelnest.records.formats import TEXT_FIELDS, BadRecord, write_quarantine

if TYPE_CHECKING:
    from qdrant_edge import EdgeConfig, EdgeShard

ACTIVE_FILE, MANIFEST_FILE, SKIPPED_FILE, SHARD_FOLDER = "active.json", "manifest.json", "skipped.jsonl", "shard"
VERSION = re.compile(r"[0-9a-f]+")


@ENGINES.register("qdrant-edge")
class QdrantEdgeEngine(QdrantCollections):
    """An index in a folder of Qdrant Edge."""

    def __init__(self, location: str) -> None:
        """Raises ConfigError if Qdrant Edge is not installed."""
        self.place = location
        self.folder = Path(location.partition("://")[2])
        super().__init__(optional_module("qdrant_edge", "qdrant", self.place))
        self._shards: dict[str, EdgeShard] = {}
        self._lock = threading.Lock()

    def disk_bytes(self) -> int:
        """See `Engine.disk_bytes`."""
        return bytes_below(self.folder / self._open()[0])

    def close(self) -> None:
        """Closes the files."""
        with self._lock:
            self._shards.clear()
        self._opened = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (DataError, ConfigError):
            raise
        except Exception as error:  # noqa: BLE001 (Qdrant Edge raises no narrower class)
            raise DataError(f"{self.place}: the index cannot be used ({error}). Run `reelnest index` to rebuild it.") from None

    def _aliased(self) -> list[str]:
        try:
            stored = json.loads((self.folder / ACTIVE_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return [str(version) for version in stored["versions"]]

    def _alias(self, version: str, before: str | None) -> None:
        write_json(self.folder / ACTIVE_FILE, {"versions": [version] if before is None else [version, before]})
        flush(self.folder)
        with self._lock:
            self._shards = {name: shard for name, shard in self._shards.items() if name in (version, before)}
            self._texts.clear()

    def _versions(self) -> list[str]:
        return [path.name for path in self.folder.glob("*") if path.is_dir() and VERSION.fullmatch(path.name)]

    def _manifest(self, version: str) -> Manifest:
        return manifest_of(json.loads((self.folder / version / MANIFEST_FILE).read_text(encoding="utf-8")), self.place)

    def _create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None:
        place = self.folder / version
        place.mkdir(parents=True)
        write_json(place / MANIFEST_FILE, manifest.model_dump(mode="json"))
        write_quarantine(place / SKIPPED_FILE, skipped)
        (place / SHARD_FOLDER).mkdir()
        self._shards[version] = self._api.EdgeShard.create(str(place / SHARD_FOLDER), self._config(manifest))

    def _config(self, manifest: Manifest) -> "EdgeConfig":
        api = self._api
        quantization: Any = {
            "int8": api.ScalarQuantizationConfig(type=api.ScalarType.Int8, always_ram=True),
            "binary": api.BinaryQuantizationConfig(always_ram=True),
        }.get(manifest.storage)
        return api.EdgeConfig(
            vectors={
                vector_name(dim): api.EdgeVectorParams(
                    size=dim,
                    distance=api.Distance.Cosine,
                    on_disk=quantization is not None,
                    datatype=api.VectorStorageDatatype.Float16 if manifest.storage == "float16" else api.VectorStorageDatatype.Float32,
                    quantization_config=quantization,
                    hnsw_config=api.HnswIndexConfig(
                        m=16 if dim == manifest.graph_dim else 0, ef_construct=100, full_scan_threshold=INDEXED_FROM_KILOBYTES
                    ),
                )
                for dim in manifest.dims
            },
            optimizers=api.EdgeOptimizersConfig(indexing_threshold=INDEXED_FROM_KILOBYTES, default_segment_number=1),
            wal_enabled=False,  # its lock allows one process; `_build` flushes what it makes
        )

    def _insert(self, version: str, manifest: Manifest, start: int, items: Sequence[Item]) -> None:
        points = [
            self._api.Point(id=number, vector=vectors_of(item, manifest), payload=payload(item)) for number, item in enumerate(items, start)
        ]
        self._shards[version].update(self._api.UpdateOperation.upsert_points(points))

    def _build(self, version: str, manifest: Manifest) -> None:
        api, shard = self._api, self._shards[version]
        texts, numbers = indexed_paths(manifest)
        for path in texts:
            shard.update(api.UpdateOperation.create_field_index(path, api.KeywordIndexParams(on_disk=True)))
        for path in numbers:
            shard.update(api.UpdateOperation.create_field_index(path, api.FloatIndexParams()))
        shard.optimize()
        shard.flush()
        flush_folder(self.folder / version)

    def _drop(self, version: str) -> None:
        with self._lock:
            self._shards.pop(version, None)
        shutil.rmtree(self.folder / version, ignore_errors=True)

    def _rows(self, version: str, manifest: Manifest, request: Request) -> list[Row]:
        api = self._api
        reranks = request.shortlist is not None and not manifest.has_signs
        first = {
            "query": api.Query.Nearest(request.vector[: request.dim].tolist(), using=vector_name(request.dim)),
            "filter": self._condition(version, manifest, request.condition),
            "params": search_params(api, manifest, request),
        }
        if reranks:
            last = api.Query.Nearest(request.vector.tolist(), using=vector_name(manifest.width))
            query = api.QueryRequest(
                limit=request.size,
                prefetches=[api.Prefetch(limit=request.shortlist, **first)],
                query=last,
                params=api.SearchParams(exact=True),
                with_payload=["video_id"],
            )
        else:
            query = api.QueryRequest(limit=request.size, with_payload=["video_id"], **first)
        return [Row(point.score, int(str(point.id)), (point.payload or {})["video_id"]) for point in self._shard(version).query(query)]

    def _page(self, version: str, condition: Any, payload: list[str], vectors: list[str] | None, offset: Any) -> tuple[list[Any], Any]:
        request = self._api.ScrollRequest(
            limit=PAGE_RECORDS, offset=offset, filter=condition, with_payload=payload, with_vector=vectors or False
        )
        return self._shard(version).scroll(request)

    def _facet(self, version: str, field: str, limit: int) -> list[str]:
        if field in TEXT_FIELDS:  # which have no index here: its ten files for each field would be most of a small shard
            records = self._scroll(version, None, ["fields"])
            return sorted({record.payload["fields"][field] for record in records if field in record.payload["fields"]})
        facets = self._shard(version).facet(self._api.FacetRequest(key=text_path(field), limit=limit, exact=True))
        return [str(hit.value) for hit in facets.hits]

    def _shard(self, version: str) -> "EdgeShard":
        with self._lock:
            if version not in self._shards:
                path = self.folder / version / SHARD_FOLDER
                if not path.is_dir():  # else Edge would make an empty one
                    raise DataError(f"{path}: no such folder. Run `reelnest index` to rebuild the index.")
                self._shards[version] = self._api.EdgeShard.load(str(path))
            return self._shards[version]
