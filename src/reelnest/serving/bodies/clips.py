"""A response with a file inside a tar file, or a byte range of it."""

import re
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from reelnest.records.files.tar_members import find_member

RANGE = re.compile(r"bytes=(?!-$)([0-9]{0,18})-([0-9]{0,18})")


def clip_response(file: Path, media_type: str, request: Request) -> Response:
    """Returns the response with a file, or with the member of a tar file, of which it reads only the bytes that are sent.

    A request for several ranges of a member gets the whole member. Raises VideoError as `find_member` does, and HTTPException for a range
    outside of the member.
    """
    member = find_member(file)
    if member is None:
        return FileResponse(file, media_type=media_type)
    start, end, status, headers = 0, member.size, 200, {"Accept-Ranges": "bytes"}
    if match := RANGE.fullmatch(request.headers.get("range", "")):
        first, last = match[1], match[2]
        start = int(first) if first else max(0, member.size - int(last))
        end = min(int(last) + 1, member.size) if first and last else member.size
        if start >= end:
            raise HTTPException(416, "The range is not in the file.", {"Content-Range": f"bytes */{member.size}"})
        status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{member.size}"
    headers["Content-Length"] = str(end - start)
    blocks = () if request.method == "HEAD" else member.blocks(start, end)
    return StreamingResponse(blocks, status, headers, media_type)
