"""A response with a file inside a tar file, or a byte range of it."""

import re
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse

from reelnest.records.files.tar_members import find_member

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def clip_response(file: Path, media_type: str, requested: str | None) -> Response:
    """The response with a file, or with the member of a tar file, of which it reads only the bytes that are sent.

    `requested` is the `Range` header of the request. Several ranges of a member are answered with the whole member. Raises VideoError as
    `find_member` does, and HTTPException for a range outside of the member.
    """
    member = find_member(file)
    if member is None:
        return FileResponse(file, media_type=media_type)
    headers = {"Accept-Ranges": "bytes"}
    match = RANGE.fullmatch(requested or "")
    if match is None or match[0] == "bytes=-":
        return StreamingResponse(member.blocks(), headers={**headers, "Content-Length": str(member.size)}, media_type=media_type)
    first, last = match[1], match[2]
    start = int(first) if first else max(0, member.size - int(last))
    end = min(int(last) + 1, member.size) if first and last else member.size
    if start >= end:
        raise HTTPException(416, "The range is not in the file.", {"Content-Range": f"bytes */{member.size}"})
    headers |= {"Content-Range": f"bytes {start}-{end - 1}/{member.size}", "Content-Length": str(end - start)}
    return StreamingResponse(member.blocks(start, end), 206, headers, media_type)
