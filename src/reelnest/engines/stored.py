"""What engines store: the form of a manifest and of a video, and the vectors of an index, which are read in blocks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from reelnest.engines.engine import Manifest, Vector
from reelnest.errors import NoIndex
from reelnest.records.formats import Video
from reelnest.records.segments import segment_of

FORMAT_VERSION = 2
OLDER_FORMATS = (1,)
"""Formats that can be read. Format 1 has no tags."""
BLOCK_VECTORS = 1000
"""Vectors that are read at once to be written again."""


class StoredVectors(Mapping[str, Vector]):
    """The vectors of an index by key. A new index looks them up in the order of the rows, so that a block serves the next ones too."""

    def __init__(self, keys: Iterable[str], read: Callable[[Sequence[str]], dict[str, Vector]]) -> None:
        self._keys, self._read = list(keys), read
        self._places = {key: place for place, key in enumerate(self._keys)}
        self._block: dict[str, Vector] = {}

    def __getitem__(self, key: str) -> Vector:
        if key not in self._block:
            place = self._places[key]
            self._block = self._read(self._keys[place : place + BLOCK_VECTORS])
        return self._block[key]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def manifest_of(stored: Any, place: str) -> Manifest:
    """Returns a manifest that was stored as JSON. Raises NoIndex for one of another format version or that is not valid."""
    version = stored.get("format_version") if isinstance(stored, dict) else None
    if version not in (FORMAT_VERSION, *OLDER_FORMATS):
        raise NoIndex(f"{place}: index format {version}; this reelnest reads format {FORMAT_VERSION}. Run `reelnest index` to rebuild it.")
    try:
        return Manifest.model_validate({**stored, "dims": tuple(stored["dims"])})
    except (ValidationError, KeyError, TypeError) as error:
        raise NoIndex(f"{place}: not a valid manifest ({error}). Run `reelnest index` to rebuild the index.") from None


def about(video: Video) -> dict[str, Any]:
    """Returns what is stored of a video beside its fields and its tags."""
    start, end = (None, None) if video.segment is None else (video.segment.start, video.segment.end)
    return {
        "video_id": video.video_id,
        "path": video.path,
        "images": list(video.images),
        "line": video.line,
        "start_seconds": start,
        "end_seconds": end,
    }


def video_of(stored: Mapping[str, Any], fields: Mapping[str, str], tags: Mapping[str, str]) -> Video:
    """Returns the video of what `about` stored."""
    segment = segment_of(stored.get("start_seconds"), stored.get("end_seconds"))  # older indexes have no segments
    return Video(stored["video_id"], stored["path"], tuple(stored["images"]), dict(fields), stored["line"], dict(tags), segment)
