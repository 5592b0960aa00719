"""What the engines of Qdrant's server and of Qdrant Edge share: payloads, filters, and how a storage type is searched.

Both have the same classes, the server's in `qdrant_client.models` and Edge's in `qdrant_edge`: the argument `api` is the module.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from reelnest.engines.collections import CollectionsEngine, Request, numbers_of
from reelnest.engines.engine import Item, Manifest, Vector
from reelnest.engines.stored import about, video_of
from reelnest.records.formats import TEXT_FIELDS, Video
from reelnest.search.filters import COMPARISONS, All, AnyOf, Compare, Filter, Not, OneOf

STORAGES = ("float32", "float16", "int8", "binary")
OVERSAMPLING = 4.0
"""Candidates by 8-bit codes, for each result, that the floats rerank."""
INDEXED_FROM_KILOBYTES = 1
"""Segments are quantised, and get their graph, only above a size."""
PAGE_RECORDS = 1000
RANGES: dict[str, str] = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
VIDEO = ("video_id", "path", "images", "line", "start_seconds", "end_seconds", "fields", "tags")


class QdrantCollections(CollectionsEngine):
    """What does not depend on how Qdrant is called."""

    storages = STORAGES

    def __init__(self, api: Any) -> None:
        super().__init__()
        self._api = api
        self._texts: dict[tuple[str, str], list[str]] = {}

    @abstractmethod
    def _page(self, version: str, condition: Any, payload: list[str], vectors: list[str] | None, offset: Any) -> tuple[list[Any], Any]:
        """Returns at most PAGE_RECORDS records with some of their payload and vectors, and the offset of the next page, if any."""

    @abstractmethod
    def _facet(self, version: str, field: str, limit: int) -> list[str]:
        """Returns the distinct texts of a field."""

    def _scroll(self, version: str, condition: Any, payload: list[str], vectors: list[str] | None = None) -> list[Any]:
        records, offset = [], None
        while True:
            page, offset = self._page(version, condition, payload, vectors, offset)
            records += page
            if offset is None:
                return records

    def _where(self, version: str, path: str, values: Sequence[str], payload: list[str], vectors: list[str] | None = None) -> list[Any]:
        """Returns the records whose text at `path` is one of `values`."""
        return self._scroll(version, one_of(self._api, path, values), payload, vectors)

    def _videos(self, version: str, ids: Sequence[str]) -> dict[str, Video]:
        records = self._where(version, "video_id", ids, list(VIDEO))
        return {record.payload["video_id"]: _video(record.payload) for record in records}

    def _keys(self, version: str, keys: Sequence[str]) -> dict[str, int]:
        return {record.payload["key"]: record.id for record in self._where(version, "key", keys, ["key"])}

    def _vectors(self, version: str, manifest: Manifest, keys: Sequence[str]) -> dict[str, Vector]:
        number_type = np.float16 if manifest.storage == "float16" else np.float32
        name = vector_name(manifest.width)
        records = self._where(version, "key", keys, ["key"], [name])
        return {record.payload["key"]: np.array(record.vector[name], number_type) for record in records}

    def _condition(self, version: str, manifest: Manifest, condition: Filter | None) -> Any:
        """Returns a filter in Qdrant's form. The distinct texts of a version's fields are kept, because a version does not change."""

        def texts(field: str) -> list[str]:
            if (version, field) not in self._texts:
                self._texts[version, field] = self._facet(version, field, manifest.videos)
            return self._texts[version, field]

        return None if condition is None else compiled(self._api, condition, texts)


def vectors_of(item: Item, manifest: Manifest) -> dict[str, list[float]]:
    """Returns the prefixes of a vector, by name."""
    return {vector_name(dim): item.vector[:dim].astype(np.float32).tolist() for dim in manifest.dims}


def vector_name(dim: int) -> str:
    """Returns the name of a prefix among a point's vectors."""
    return f"dim{dim}"


def payload(item: Item) -> dict[str, Any]:
    """Returns the payload of a point. `numbers` has the texts that are numbers, because ranges compare only those."""
    video = item.video
    return {
        **about(video),
        "key": item.key,
        "fields": dict(video.fields),
        "tags": {_escaped(name): text for name, text in video.tags.items()},
        "numbers": {_escaped(name): number for name, number in numbers_of(video).items()},
    }


def _video(stored: dict[str, Any]) -> Video:
    return video_of(stored, stored["fields"], {_unescaped(name): text for name, text in stored["tags"].items()})


def text_path(field: str) -> str:
    """Returns the path of a field's texts in a payload."""
    return "video_id" if field == "video_id" else f'{"fields" if field in TEXT_FIELDS else "tags"}."{_escaped(field)}"'


def number_path(field: str) -> str:
    """Returns the path of a field's numbers in a payload."""
    return f'numbers."{_escaped(field)}"'


def indexed_paths(manifest: Manifest) -> tuple[list[str], list[str]]:
    """Returns the paths of texts and of numbers that filters use, without the text fields."""
    return ["key", *map(text_path, ("video_id", *manifest.tags))], [number_path(name) for name in manifest.tags]


def search_params(api: Any, manifest: Manifest, request: Request) -> Any:
    """Returns how the vectors at `request.dim` are searched: by the graph, by quantised codes that the floats rerank, or exactly."""
    if request.condition is not None:
        return api.SearchParams(exact=True)  # a graph loses results behind a filter
    by_graph = request.shortlist is not None and request.dim == manifest.graph_dim
    size = max(request.shortlist or 0, request.size)
    quantization = None
    if manifest.has_signs and request.shortlist is not None:
        quantization = api.QuantizationSearchParams(rescore=True, oversampling=max(1.0, size / request.size))
    elif manifest.storage == "int8":
        quantization = api.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
    elif not by_graph:
        return api.SearchParams(exact=True)
    return api.SearchParams(hnsw_ef=size if by_graph else None, quantization=quantization)


def compiled(api: Any, condition: Filter, texts: Callable[[str], Collection[str]]) -> Any:
    """Returns a filter in Qdrant's form.

    Args:
        api: See above.
        condition: The filter.
        texts: Returns the distinct texts of a field. Qdrant compares no texts by order, so those that satisfy a comparison are listed.
    """

    def each(conditions: Collection[Filter]) -> list[Any]:
        return [compiled(api, inner, texts) for inner in conditions]

    def in_range(field: str, **bounds: float) -> Any:
        number_range = api.RangeFloat if hasattr(api, "RangeFloat") else api.Range
        return api.FieldCondition(key=number_path(field), range=number_range(**bounds))

    match condition:
        case Not(inner):
            return api.Filter(must_not=each([inner]))
        case All(conditions):
            return api.Filter(must=each(conditions))
        case AnyOf(conditions):
            return api.Filter(should=each(conditions))
        case OneOf(field, values) if isinstance(values[0], str):
            return one_of(api, text_path(field), [str(value) for value in values])
        case OneOf(field, values):
            return api.Filter(should=[in_range(field, gte=float(value), lte=float(value)) for value in values])
        case Compare(field, sign, value) if isinstance(value, str):
            return one_of(api, text_path(field), [text for text in texts(field) if COMPARISONS[sign](text, value)])
        case Compare(field, sign, value):
            return api.Filter(must=[in_range(field, **{RANGES[sign]: float(value)})])


def one_of(api: Any, path: str, values: Collection[str]) -> Any:
    """Returns the condition that the text at `path` is one of `values`."""
    return api.Filter(must=[api.FieldCondition(key=path, match=api.MatchAny(any=list(values)))])


def _escaped(name: str) -> str:
    """Returns the name of a tag without what a quoted name of Qdrant's paths cannot contain."""
    return re.sub(r'["\\%]', lambda character: f"%{ord(character[0]):02x}", name) or "%00"


def _unescaped(name: str) -> str:
    return re.sub("%(..)", lambda code: chr(int(code[1], 16)), name).removeprefix("\0")
