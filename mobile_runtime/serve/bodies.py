"""Bodies of requests, read up to a limit of bytes and time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from mobile_runtime.serve.api_error import ApiError
from mobile_runtime.serve.limits import Limits


async def read_body(request: Request, limits: Limits, kind: str = "application/json") -> bytes:
    """The body. Raises `ApiError` if its type is not `kind`, or it is too large or too slow.

    The type matters: a browser sends this one to another site only after asking it, and this
    server says no.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise ApiError(415, f"The body is of type {given[:60] or 'none'!r}; send {kind}.")
    said = request.headers.get("content-length", "0")
    too_large = ApiError(
        413,
        f"The body is larger than {limits.body_bytes:,} bytes; send smaller pictures or videos, or "
        "start the server with a larger --max-body-mb.",
    )
    if said.isdigit() and int(said[:20]) > limits.body_bytes:
        raise too_large
    try:
        return await asyncio.wait_for(_collect(request, limits, too_large), limits.body_seconds)
    except TimeoutError as error:
        raise ApiError(
            408, f"The body took more than {limits.body_seconds:g} s; send it again."
        ) from error


async def _collect(request: Request, limits: Limits, too_large: ApiError) -> bytes:
    chunks, length = [], 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > limits.body_bytes:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)
