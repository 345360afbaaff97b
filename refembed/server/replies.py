"""Bodies in, answers out: what all handlers do alike."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from refembed.arrays import F32
from refembed.server.errors import ApiError, ClientDisconnected
from refembed.server.json_errors import dumps

MAX_BODY = 100 * 1024 * 1024  # bytes: CPPHTTPLIB_PAYLOAD_MAX_LENGTH of vendor/cpp-httplib/httplib.h
JSON_TYPE = "application/json; charset=utf-8"


async def read_body(request: Request) -> bytes:
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
    return bytes(body)


def reply(value: Any, status: int = 200) -> Response:
    """A value as JSON."""
    return raw_reply(dumps(value), status)


def raw_reply(body: bytes, status: int = 200) -> Response:
    """JSON that is written already."""
    return Response(body, status, headers={"content-type": JSON_TYPE})


def numbers(vector: F32) -> list[float]:
    """float32 (D) as the doubles they are: JSON then shows what llama-server shows."""
    return vector.astype(np.float64).tolist()


def rows(vector: F32) -> list[list[float]]:
    """A vector as a list of one row, or one row a token: (T, D)."""
    return np.atleast_2d(vector).astype(np.float64).tolist()


def encoded(vector: F32) -> str:
    """base64 of little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
