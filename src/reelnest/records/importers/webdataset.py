"""WebDataset: uncompressed tar files, with `<key>.mp4` and its captions in `<key>.txt` or `<key>.json` side by side.

Each line of a text, and the `caption` of a JSON object, a text or a list, is a query. Texts under `title`, `text`, `ocr` and `asr` become
fields of the video. Shards with train, val or test in their names, or in their folders' names, are those splits.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from reelnest.errors import DataError
from reelnest.records.captioned_clips import SUFFIXES, other_file, split_of
from reelnest.records.files.safe_paths import is_file
from reelnest.records.files.tar_members import TAR_FAULTS, is_compressed, read_members
from reelnest.records.formats import TEXT_FIELDS
from reelnest.records.importers.importer import IMPORTERS, BadRow, Origin, PairRow, Row, VideoRow
from reelnest.records.json_lines import show_kind

LARGEST_TEXT = 2**24
LINE_END = re.compile(r"\r\n?|\n")
FIELDS = [name for name in TEXT_FIELDS if name != "caption"]


@dataclass
class _Sample:
    """The members of one key, which follow each other."""

    key: str
    origin: Origin
    video: Path | None = None
    captions: list[Any] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


@IMPORTERS.register("webdataset")
def read_webdataset(source: Path) -> Iterator[Row]:
    """WebDataset: a tar file, or a folder of them, with <key>.mp4 and <key>.txt or <key>.json."""
    names: dict[str, str] = {}
    for shard, name in _shards(source):
        with TemporaryDirectory(prefix="reelnest-") as folder:
            yield from _unique(_shard(shard, name, Path(folder)), split_of(name), None, names)


@IMPORTERS.register("webdataset-shards")
def read_webdataset_shards(source: Path) -> Iterator[Row]:
    """WebDataset whose tar files are copied as they are: the videos are read inside them."""
    names: dict[str, str] = {}
    for shard, name in _shards(source):
        yield from _unique(_shard(shard, name, None), split_of(name), shard, names)


def _shards(source: Path) -> list[tuple[Path, str]]:
    """Returns each tar file with its path relative to the source."""
    if source.is_file():
        return [(source, source.name)]
    shards = [(shard, shard.relative_to(source).as_posix()) for shard in sorted(source.rglob("*.tar")) if is_file(shard)]
    if not shards:
        raise DataError(f"{source}: expected an uncompressed tar file, or a folder with .tar files. Unpack archives that are compressed.")
    return shards


def _unique(samples: Iterator[_Sample | BadRow], split: str | None, shard: Path | None, names: dict[str, str]) -> Iterator[Row]:
    """Yields the rows of the samples. `names` has the video of each key; a key that another video has is not used."""
    for sample in samples:
        if isinstance(sample, BadRow):
            yield sample
            continue
        name = f"{sample.origin.file}, sample {sample.origin.row}"
        if sample.video is not None and names.setdefault(sample.key, name) != name:
            yield other_file(sample.origin, sample.key, name, names[sample.key])
        else:
            yield from _rows(sample, split, shard)
        if shard is None and sample.video is not None:
            sample.video.unlink()


def _shard(shard: Path, name: str, folder: Path | None) -> Iterator[_Sample | BadRow]:
    """Yields the samples of a shard.

    One video at a time is in `folder`: it is copied by whoever takes its row, before the next row is asked for. Without a folder, the
    samples name the members of the shard.
    """
    sample, number = None, 0
    try:
        with tarfile.open(shard, "r:") as opened:
            for member in read_members(opened):
                if not member.isfile():
                    continue
                key, suffix = _key(member.name)
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield sample
                    number += 1
                    sample = _Sample(key, Origin(name, number))
                yield from _add(sample, suffix, opened, member, folder)
    except (*TAR_FAULTS, OSError) as error:
        number += 1
        if is_compressed(shard):
            yield BadRow(Origin(name, number), "compressed_tar", "a compressed archive; unpack it to a .tar file")
        else:
            yield BadRow(
                Origin(name, number), "truncated", f"not readable as an uncompressed tar file from here on: {error}; copy it again"
            )
    if sample is not None:
        yield sample


def _key(name: str) -> tuple[str, str]:
    """Returns the key and the suffix, which begins at the first dot of the file's name."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return (path.parent / stem).as_posix(), f".{suffix.lower()}"


def _add(sample: _Sample, suffix: str, opened: tarfile.TarFile, member: tarfile.TarInfo, folder: Path | None) -> Iterator[BadRow]:
    content = opened.extractfile(member)
    if content is None or suffix not in (*SUFFIXES, ".txt", ".json"):
        return
    if suffix in SUFFIXES:
        if sample.video is not None:
            yield other_file(sample.origin, sample.key, member.name, f"{sample.key}{sample.video.suffix}")
            return
        video = Path(member.name) if folder is None else folder / f"video{suffix}"
        if folder is not None:
            with video.open("wb") as written:
                while block := content.read(2**20):
                    written.write(block)
        sample.video = video  # now that it is complete
        return
    try:
        text = content.read(LARGEST_TEXT).decode("utf-8-sig")
        if suffix == ".txt":
            sample.captions += [line.strip() for line in LINE_END.split(text) if line.strip()]
            return
        record: Any = json.loads(text)
        if not isinstance(record, dict):
            yield BadRow(sample.origin, "not_an_object", f"{member.name}: expected a JSON object; found {show_kind(record)}")
            return
        caption = record.get("caption")
        sample.captions += caption if isinstance(caption, list) else [caption] if caption else []
        sample.fields.update({key: record[key] for key in FIELDS if isinstance(record.get(key), str) and record[key]})
    except (ValueError, RecursionError) as error:
        is_text = isinstance(error, UnicodeDecodeError)
        expected = "UTF-8" if is_text else "JSON"
        yield BadRow(sample.origin, "wrong_encoding" if is_text else "bad_json", f"{member.name}: {error}; expected {expected}")


def _rows(sample: _Sample, split: str | None, shard: Path | None) -> Iterator[Row]:
    """Yields the rows of a sample, whose video is a member of `shard`, or else a file."""
    if sample.video is None:
        detail = f"the key {sample.key} has no video ({', '.join(SUFFIXES)}) here; the members of a key must follow each other"
        yield BadRow(sample.origin, "no_path", detail, sample.key)
        return
    stored, file = f"videos/{sample.key}{sample.video.suffix}", sample.video
    path = stored
    if shard is not None:
        stored, file = f"shards/{sample.origin.file}", shard
        path = f"{stored}/{sample.video.as_posix()}"
    yield VideoRow(sample.origin, {"video_id": sample.key, "path": path, **sample.fields}, {stored: file})
    texts = dict.fromkeys(caption for caption in sample.captions if isinstance(caption, str))
    for caption in (*texts, *(caption for caption in sample.captions if not isinstance(caption, str))):
        record: dict[str, Any] = {"query": {"text": caption}, "target": {"video": sample.key}}
        yield PairRow(sample.origin, record if split is None else {**record, "split": split})
