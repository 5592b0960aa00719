"""Reads the headers of video containers, before any decoder opens the file.

Decoders read a truncated Matroska or AVI file to its end without an error. The containers' headers contain their size, so truncation is
detected by comparing it with the file's size.
"""

import os
import struct
from typing import BinaryIO

EBML = b"\x1a\x45\xdf\xa3"
EBML_SEGMENT = b"\x18\x53\x80\x67"

BOXES = frozenset(b"ftyp moov mdat free skip wide moof mfra sidx ssix styp pdin meta uuid udta emsg prft".split())
"""The types of top-level boxes of MP4 and QuickTime. Other bytes after the last one are not read by players."""
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xda", b"\xff\xd9"
EXTENSION, IMAGE = 0x21, 0x2C
"""First bytes of GIF's blocks."""
FLV_TAGS = (8, 9, 18)
"""First bytes of FLV's tags: sound, a frame, and metadata."""

# First bytes of text files that name other files or addresses, which a demuxer would open.
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0")


def is_playlist(file: BinaryIO) -> bool:
    """Returns whether the file is a playlist (HLS, DASH, concat, SDP)."""
    file.seek(0)
    return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(PLAYLISTS)


def webp_durations(file: BinaryIO) -> list[int]:
    """Returns the duration of each frame of an animated WebP, in milliseconds."""
    size = os.fstat(file.fileno()).st_size
    durations, at = [], 12  # after RIFF, its size and WEBP
    while at + 8 <= size:
        file.seek(at)
        head = file.read(24)
        if head[:4] == b"ANMF" and len(head) == 24:  # then x, y, width and height, 3 bytes each
            durations.append(int.from_bytes(head[20:23], "little"))
        length = int(struct.unpack("<I", head[4:8])[0])
        at += 8 + length + length % 2
    return durations


def second_jpeg(file: BinaryIO) -> int | None:
    """Returns the position of the image that follows the first in a raw stream of JPEG images; None for a single image."""
    file.seek(0)
    data = file.read()
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != JPEG_SCAN:  # segments, which may contain a preview
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    end = data.find(JPEG_END, at) + len(JPEG_END)
    return end if end > at and data.startswith(JPEG_START, end) else None


def announced_size(file: BinaryIO) -> int | None:
    """Returns the minimum size of the file in bytes, by its header; None without a size there (MPEG-TS, a live stream, not a video)."""
    file.seek(0)
    head = file.read(12)
    if head[:4] == EBML:
        return _matroska(file)
    if head[:4] == b"RIFF":
        return _chunks(file, riff=True)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        return _chunks(file, riff=False)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(file)
    if head[:3] == b"FLV":
        return _flv(file)
    return None


def _chunks(file: BinaryIO, *, riff: bool) -> int:
    """Walks the top-level boxes of MP4 and QuickTime, or the RIFF chunks of AVI, to the end of the last one that begins in the file."""
    size, at = os.fstat(file.fileno()).st_size, 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        if riff:
            if head[:4] != b"RIFF":
                break
            length = 8 + int(struct.unpack("<I", head[4:8])[0])
            length += length % 2
        else:
            length = int(struct.unpack(">I", head[:4])[0])
            if head[4:8] not in BOXES and at + length > size:
                break
            if length == 1 and len(head) == 16:
                length = int(struct.unpack(">Q", head[8:])[0])
            if length == 0:  # to the end of the file
                break
            if length < 8:  # bytes after the last box
                break
        at += length
    return at


def _gif(file: BinaryIO) -> int:
    """Walks the blocks to the end of the last one that begins in the file. Some writers omit the final byte, so it is not counted."""
    size, at = os.fstat(file.fileno()).st_size, 13
    file.seek(10)
    at += _colours(file.read(1))
    while at < size:
        file.seek(at)
        head = file.read(10)
        if head[0] == EXTENSION:
            at += 2
        elif head[0] == IMAGE:  # then left, top, width and height, 2 bytes each, flags, colours, and the size of a code
            at += 11 + _colours(head[9:])
        else:  # the final byte, or bytes after the last block
            break
        while at < size:
            file.seek(at)
            length = file.read(1)[0]
            at += 1 + length
            if not length:
                break
        else:
            return at + 1
    return at


def _colours(flags: bytes) -> int:
    """Returns the size of the table of colours that these flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _flv(file: BinaryIO) -> int:
    """Walks the tags to the end of the last one that begins in the file."""
    size, at = os.fstat(file.fileno()).st_size, 13
    while at + 4 <= size:
        file.seek(at)
        head = file.read(4)
        if head[0] not in FLV_TAGS:
            break
        at += 11 + int.from_bytes(head[1:], "big")
        if at > size:
            return at
        at += 4  # the size of this tag again
    return min(at, size)


def _matroska(file: BinaryIO) -> int | None:
    """Returns the end of the segment, which follows the short EBML header."""
    file.seek(len(EBML))
    header = _vint(file)
    if header is None:
        return None
    file.seek(header, os.SEEK_CUR)
    if file.read(len(EBML_SEGMENT)) != EBML_SEGMENT:
        return None
    length = _vint(file)
    return None if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """Returns an EBML variable-length integer; None for "unknown" (all ones), which live streams write."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - length)) - 1)]) + rest, "big")
    return None if value == (1 << (7 * length)) - 1 else value
