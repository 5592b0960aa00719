"""Files inside uncompressed tar files, which are read in place: `shards/000.tar/a1.mp4` is the member `a1.mp4` of `shards/000.tar`.

The names of members are only compared with paths of records, and never used as paths. Links, sparse files and nested tar files are not
followed.
"""

import filecmp
import functools
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from reelnest.errors import VideoError

COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".zst", ".lz4", ".zip")
ARCHIVES = (".tar", *COMPRESSED)
COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"PK\x03\x04")
"""First bytes of these: gzip, bzip2, xz, zstd, lz4 and zip."""
INDEXES = 16
"""Tar files whose members stay in memory. One takes about 200 bytes a member."""
MOST_MEMBERS = 1_000_000
BLOCK_BYTES = 2**20
TAR_FAULTS = (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError)
"""What tarfile raises for damaged files."""


@dataclass(frozen=True)
class TarMember:
    """A part of a tar file."""

    tar: Path
    offset: int
    size: int

    def open(self) -> BinaryIO:
        """Returns the tar file at the member's first byte."""
        opened = self.tar.open("rb")
        opened.seek(self.offset)
        return opened

    def blocks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yields the bytes from `start` to before `end`, in blocks. Fewer if the tar file has been cut since."""
        left = (self.size if end is None else min(end, self.size)) - start
        with self.tar.open("rb") as opened:
            opened.seek(self.offset + start)
            while left > 0 and (block := opened.read(min(left, BLOCK_BYTES))):
                left -= len(block)
                yield block


def tar_of(file: Path) -> Path | None:
    """Returns the archive among the folders of this path; None if there is none."""
    return next((parent for parent in file.parents if parent.suffix.lower() in ARCHIVES and parent.is_file()), None)


def is_compressed(file: Path) -> bool:
    """Returns whether a file begins as a compressed archive does, whatever its name is. Raises OSError."""
    with file.open("rb") as opened:
        return opened.read(8).startswith(COMPRESSED_STARTS)


def stored_name(name: str, folder: Path) -> str:
    """Returns the name of the file in `folder` that has the bytes of `name`: the tar file of a member, or else `name` itself."""
    tar = tar_of(folder / name)
    return name if tar is None else tar.relative_to(folder).as_posix()


def same_bytes(first: Path, second: Path) -> bool:
    """Returns whether two files or members have the same bytes. Raises OSError, or VideoError as `find_member` does."""
    if tar_of(first) is None and tar_of(second) is None:
        return filecmp.cmp(first, second, shallow=False)
    with open_bytes(first) as blocks, open_bytes(second) as second_blocks:
        return all(first_block == second_block for first_block, second_block in zip_longest(blocks, second_blocks))


def find_member(file: Path) -> TarMember | None:
    """Returns the member that the path names; None if no folder of the path is a file.

    Raises VideoError: `missing`, `not_a_file`, `compressed_tar`, `truncated`, `duplicate_member`.
    """
    tar = tar_of(file)
    if tar is None:
        return None
    inside = PurePosixPath(*file.parts[len(tar.parts) :]).as_posix()
    name = f"{tar.name}/{inside}"
    if tar.suffix.lower() in COMPRESSED:
        raise VideoError(
            "compressed_tar", f"{name}: files in a compressed archive cannot be read in place; unpack {tar.name} to a .tar file"
        )
    try:
        status = tar.stat()
        index = _index(str(tar), (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except PermissionError:
        raise VideoError("unreadable", f"{tar.name}: no permission to read it; change its permissions") from None
    if inside in index.repeated:
        raise VideoError("duplicate_member", f"{name}: several members of {tar.name} have this name; give each its own")
    place = index.places.get(inside)
    if place is None:
        if index.fault is not None:
            raise VideoError("truncated", f"{name}: {tar.name} is not readable as an uncompressed tar file ({index.fault}); copy it again")
        raise VideoError("missing", f"{tar.name} has no file {inside}; correct the path, or add it to the tar file")
    offset, size = place
    if offset + size > status.st_size:
        raise VideoError("truncated", f"{name}: truncated: {tar.name} ends inside it; copy it again")
    return TarMember(tar, offset, size)


@contextmanager
def open_bytes(file: Path) -> Iterator[Iterator[bytes]]:
    """Yields the blocks of a file or of a member. Raises OSError, or VideoError as `find_member` does."""
    try:
        opened = file.open("rb")
    except NotADirectoryError:
        member = find_member(file)
        if member is None:
            raise
        yield member.blocks()
        return
    with opened:
        yield iter(lambda: opened.read(BLOCK_BYTES), b"")


@dataclass(frozen=True)
class _Index:
    """The regular files of a tar file."""

    places: dict[str, tuple[int, int]]
    """Name → offset and size."""
    repeated: frozenset[str]
    fault: str | None
    """Why reading stopped before the end; None if it did not."""


@functools.lru_cache(INDEXES)
def _index(tar: str, state: tuple[int, ...]) -> _Index:  # noqa: ARG001 - a tar file that has changed is read again
    places: dict[str, tuple[int, int]] = {}
    repeated: set[str] = set()
    fault: str | None = None
    try:
        with tarfile.open(tar, "r:") as opened:
            for member in read_members(opened):
                if len(places) >= MOST_MEMBERS:
                    fault = f"more than {MOST_MEMBERS} members"
                    break
                name = PurePosixPath(member.name).as_posix()
                if name in places or name in repeated:
                    repeated.add(name)
                elif member.isreg() and not member.issparse():
                    places[name] = (member.offset_data, member.size)
    except TAR_FAULTS as error:
        fault = str(error) or type(error).__name__
    return _Index(places, frozenset(repeated), fault)


def read_members(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields the members of an open tar file, without a list of all. Raises one of TAR_FAULTS for invalid headers or a missing end."""
    last = -1
    while (member := opened.next()) is not None:
        if opened.offset <= last or member.size < 0:
            raise tarfile.ReadError("its headers are invalid")
        last = opened.offset
        opened.members.clear()  # type: ignore[attr-defined] # it would list all of them
        yield member
    # An empty block ends a tar file.
    opened.fileobj.seek(max(last, 0))
    if opened.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it has no end mark")
