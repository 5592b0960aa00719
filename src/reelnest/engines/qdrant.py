"""The engine for a Qdrant server, 1.16 or newer: a collection for each version of the index, and an alias of the active one.

`qdrant+http://host:6333#videos` is the index `videos` of a server, with `qdrant+https://` over TLS. An API key is read from QDRANT_API_KEY,
or from the address (`qdrant+https://:KEY@host`). Requires `pip install 'reelnest[qdrant]'`. Any client can search it:

    client.query_points("videos", query=[0.1, …], using="dim256", limit=10, with_payload=["video_id"])
"""

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from reelnest.engines.collections import MOST_SKIPPED, Request, Row, index_name
from reelnest.engines.engine import ENGINES, Item, Manifest, optional_module, shown
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
from reelnest.errors import DataError, NoIndex
from reelnest.records.formats import TEXT_FIELDS, BadRecord

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

TIMEOUT_SECONDS = 60
SECONDS_BETWEEN_CHECKS = 0.2


def connect(address: str) -> "QdrantClient":
    """Returns a client of the server. It connects with its first request."""
    from qdrant_client import QdrantClient

    parts = urlsplit(address.removeprefix("qdrant+"))
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    key = unquote(parts.password) if parts.password else os.environ.get("QDRANT_API_KEY")
    return QdrantClient(url=url, port=parts.port or 6333, api_key=key, timeout=TIMEOUT_SECONDS, check_compatibility=False)


@ENGINES.register("qdrant+http")
@ENGINES.register("qdrant+https")
class QdrantEngine(QdrantCollections):
    """An index of a Qdrant server."""

    def __init__(self, location: str) -> None:
        """Raises ConfigError if Qdrant's client is not installed, or if the index's name is not plain."""
        address, _, name = location.partition("#")
        self.name = name or "reelnest"
        self.place = shown(f"{address}#{self.name}")
        index_name(self.name, self.place)
        super().__init__(optional_module("qdrant_client.models", "qdrant", self.place))
        self._client = connect(address)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()
        self._opened = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        try:
            yield
        except (ApiException, QdrantException, ValueError, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].removesuffix(".")
            raise DataError(f"{self.place}: {reason}.") from None

    def _aliased(self) -> list[str]:
        collections = {alias.alias_name: alias.collection_name for alias in self._client.get_aliases().aliases}
        named = (collections.get(alias) for alias in (self.name, f"{self.name}_before"))
        return [collection.removeprefix(f"{self.name}_") for collection in named if collection is not None]

    def _alias(self, version: str, before: str | None) -> None:
        api, existing = self._api, {alias.alias_name for alias in self._client.get_aliases().aliases}
        changes: list[Any] = []
        for alias, target in ((self.name, version), (f"{self.name}_before", before)):
            if alias in existing:
                changes.append(api.DeleteAliasOperation(delete_alias=api.DeleteAlias(alias_name=alias)))
            if target is not None:
                created = api.CreateAlias(collection_name=self._collection(target), alias_name=alias)
                changes.append(api.CreateAliasOperation(create_alias=created))
        self._client.update_collection_aliases(changes)  # all in one step
        self._texts.clear()

    def _versions(self) -> list[str]:
        names = [collection.name for collection in self._client.get_collections().collections]
        versions = [name.removeprefix(f"{self.name}_") for name in names if name.startswith(f"{self.name}_")]
        return [version for version in versions if all(digit in "0123456789abcdef" for digit in version)]

    def _manifest(self, version: str) -> Manifest:
        stored = self._client.get_collection(self._collection(version)).config.metadata
        if not stored or "manifest" not in stored:
            raise NoIndex(
                f"{self.place}: the collection has no manifest. Qdrant 1.16 or newer keeps it. Run `reelnest index` to rebuild it."
            )
        return manifest_of(stored["manifest"], self.place)

    def _create(self, version: str, manifest: Manifest, skipped: Collection[BadRecord]) -> None:
        api = self._api
        quantization = {
            "int8": api.ScalarQuantization(scalar=api.ScalarQuantizationConfig(type=api.ScalarType.INT8, always_ram=True)),
            "binary": api.BinaryQuantization(binary=api.BinaryQuantizationConfig(always_ram=True)),
        }.get(manifest.storage)
        self._client.create_collection(
            self._collection(version),
            vectors_config={
                vector_name(dim): api.VectorParams(
                    size=dim,
                    distance=api.Distance.COSINE,
                    on_disk=quantization is not None,
                    datatype=api.Datatype.FLOAT16 if manifest.storage == "float16" else api.Datatype.FLOAT32,
                    quantization_config=quantization,
                    hnsw_config=api.HnswConfigDiff(m=16 if dim == manifest.graph_dim else 0),
                )
                for dim in manifest.dims
            },
            optimizers_config=api.OptimizersConfigDiff(indexing_threshold=0),  # not before all rows are there
            metadata={
                "manifest": manifest.model_dump(mode="json"),
                "skipped": [asdict(record) for record in list(skipped)[:MOST_SKIPPED]],
            },
        )

    def _insert(self, version: str, manifest: Manifest, start: int, items: Sequence[Item]) -> None:
        points = [
            self._api.PointStruct(id=number, vector=vectors_of(item, manifest), payload=payload(item))
            for number, item in enumerate(items, start)
        ]
        self._client.upsert(self._collection(version), points, wait=True)

    def _build(self, version: str, manifest: Manifest) -> None:
        api, collection = self._api, self._collection(version)
        texts, numbers = indexed_paths(manifest)
        for path in (*texts, *map(text_path, TEXT_FIELDS)):
            self._client.create_payload_index(collection, path, api.KeywordIndexParams(type="keyword", on_disk=True), wait=True)
        for path in numbers:
            self._client.create_payload_index(collection, path, api.FloatIndexParams(type="float"), wait=True)
        thresholds = api.OptimizersConfigDiff(indexing_threshold=INDEXED_FROM_KILOBYTES)
        self._client.update_collection(collection, optimizers_config=thresholds)
        while self._client.get_collection(collection).status != api.CollectionStatus.GREEN:
            time.sleep(SECONDS_BETWEEN_CHECKS)

    def _drop(self, version: str) -> None:
        self._client.delete_collection(self._collection(version))

    def _rows(self, version: str, manifest: Manifest, request: Request) -> list[Row]:
        api = self._api
        query: dict[str, Any] = {
            "query": request.vector[: request.dim].tolist(),
            "using": vector_name(request.dim),
            "params": search_params(api, manifest, request),
        }
        condition = self._condition(version, manifest, request.condition)
        if request.shortlist is not None and not manifest.has_signs:
            query = {
                "prefetch": api.Prefetch(limit=request.shortlist, filter=condition, **query),
                "query": request.vector.tolist(),
                "using": vector_name(manifest.width),
                "search_params": api.SearchParams(exact=True),
            }
        else:
            query = {**query, "search_params": query["params"], "query_filter": condition}
            del query["params"]
        response = self._client.query_points(self._collection(version), limit=request.size, with_payload=["video_id"], **query)
        return [Row(point.score, int(point.id), (point.payload or {})["video_id"]) for point in response.points]

    def _page(self, version: str, condition: Any, payload: list[str], vectors: list[str] | None, offset: Any) -> tuple[list[Any], Any]:
        return self._client.scroll(
            self._collection(version), condition, PAGE_RECORDS, offset=offset, with_payload=payload, with_vectors=vectors or False
        )

    def _facet(self, version: str, field: str, limit: int) -> list[str]:
        return [str(hit.value) for hit in self._client.facet(self._collection(version), text_path(field), limit=limit, exact=True).hits]

    def _collection(self, version: str) -> str:
        return f"{self.name}_{version}"
