"""Bodies in, answers out: what all handlers do alike."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from refembed.arrays import F32
from refembed.server.errors import ApiError, ClientDisconnected
from refembed.server.json_text import array, dumps
from refembed.server.reading import Body
from refembed.server.state import State

MAX_BODY = 100 * 1024 * 1024  # bytes: CPPHTTPLIB_PAYLOAD_MAX_LENGTH of vendor/cpp-httplib/httplib.h
CHUNK = 256 * 1024  # bytes of an answer that are made, and sent, at a time
JSON_TYPE = "application/json; charset=utf-8"


async def read_body(request: Request) -> bytearray:
    """The body. ApiError 413 above 100 MiB, 503 where all bodies are too large; ClientDisconnected if it ends early."""
    too_large = ApiError(f"the body is larger than {MAX_BODY} bytes", status=413)
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > MAX_BODY:
                raise too_large
            request.state.held.take(len(chunk))
            body += chunk
    except ClientDisconnect:
        raise ClientDisconnected from None
    return body


def reply(value: object, status: int = 200) -> Response:
    """A small value as JSON."""
    return Response(dumps(value), status, headers={"content-type": JSON_TYPE})


async def raw_reply(request: Request, body: Body) -> Response:
    """JSON that is written already. Its bytes count as those of a body do: ApiError 503 where there is no room now."""
    most = request.state.held.admission.max_bytes
    if len(body) > most:
        raise ApiError(f"the answer would have {len(body)} bytes, at most {most}; send less at a time", status=413)
    request.state.held.take(len(body))
    if len(body) <= CHUNK:
        return Response(bytes(body), headers={"content-type": JSON_TYPE})
    view = memoryview(body)
    parts = (bytes(view[at : at + CHUNK]) for at in range(0, len(view), CHUNK))

    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return StreamingResponse(chunks(), headers={"content-type": JSON_TYPE, "content-length": str(len(body))})


async def streamed(state: State, pieces: Iterator[Body]) -> Response:
    """JSON that is written piece by piece, in a thread: a large answer while it is sent, so that none is in memory."""
    loop, parts = asyncio.get_running_loop(), chunked(pieces)
    begin = await loop.run_in_executor(state.small, lambda: list(itertools.islice(parts, 2)))
    if len(begin) < 2:
        return Response(b"".join(begin), headers={"content-type": JSON_TYPE})

    async def chunks() -> AsyncIterator[bytes]:
        for part in begin:
            yield part
        while part := await loop.run_in_executor(state.writing, next, parts, b""):
            yield part

    return StreamingResponse(chunks(), headers={"content-type": JSON_TYPE})


def chunked(pieces: Iterator[Body]) -> Iterator[bytes]:
    """The same bytes in parts of about CHUNK, none of them empty."""
    waiting, size = list[Body](), 0
    for piece in pieces:
        view = memoryview(piece)
        for at in range(0, len(view), CHUNK):
            part = view[at : at + CHUNK]
            waiting.append(part)
            size += len(part)
            if size >= CHUNK:
                yield b"".join(waiting)
                waiting, size = [], 0
    if size:
        yield b"".join(waiting)


def numbers(vector: F32) -> bytes:
    """float32 (D) as JSON; the doubles they are, so that it shows what llama-server shows."""
    return dumps(vector.astype(np.float64).tolist())


def rows(vector: F32) -> Iterator[bytes]:
    """A vector as a list of one row, or one row a token: (T, D)."""
    return array(numbers(row) for row in np.atleast_2d(vector))


def vectors_of(vectors: Sequence[F32]) -> Iterator[bytes]:
    """A list of vectors."""
    return array(numbers(vector) for vector in vectors)


def encoded(vector: F32) -> bytes:
    """base64 of little-endian float32, as JSON."""
    return b'"%b"' % base64.b64encode(vector.astype("<f4").tobytes())
