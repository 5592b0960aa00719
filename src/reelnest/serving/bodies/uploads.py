"""Receives the body of a request, with limits on its size and its time."""

import asyncio
from typing import IO

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

UPLOAD_TIMEOUT_SECONDS = 120
"""The longest time for a body, so that a slow client does not hold a request open."""

MOST_IN_MEMORY = 2**20
"""Bytes of a body that are kept in memory, where writing takes no thread."""


async def receive(request: Request, file: IO[bytes], megabytes: float) -> None:
    """Writes the request's body to `file`. Raises HTTPException if it is empty, slow, or as soon as it turns out too large."""
    most, size = int(megabytes * 1e6), 0
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise HTTPException(413, f"The body has {int(announced) / 1e6:.3g} MB; the limit is {megabytes:g} MB.")
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise HTTPException(413, f"The body exceeds the limit of {megabytes:g} MB.")
                if size <= MOST_IN_MEMORY:
                    file.write(chunk)
                else:
                    await run_in_threadpool(file.write, chunk)
    except TimeoutError:
        raise HTTPException(408, f"The body did not arrive within {UPLOAD_TIMEOUT_SECONDS} s.") from None
    if not size:
        raise HTTPException(422, "The request has no body.")
    file.flush()
