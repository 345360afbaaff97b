"""What a request can fail with, and the bodies that say so: llama-server's, Ollama's, Text Embeddings Inference's.

llama.cpp  {"error": {"code", "message", "type"}}       format_error_response of tools/server/server-common.cpp
Ollama     {"error": "message"}                         server/routes.go
TEI        {"error": "message", "error_type": "..."}    router/src/server.rs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from refembed.errors import RefembedError, RequestError

STATUS = {  # llama.cpp's error types and their statuses
    "invalid_request_error": 400,
    "exceed_context_size_error": 400,
    "authentication_error": 401,
    "not_found_error": 404,
    "server_error": 500,
    "not_supported_error": 501,
    "unavailable_error": 503,
}

NOT_A_PROMPT = (
    '"prompt" elements must be a string, a list of tokens, a JSON object containing a prompt string, '
    "or a list of mixed strings & tokens."
)


class ApiError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        message: str,
        kind: str = "invalid_request_error",
        status: int = 0,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """kind: a row of STATUS; headers: of the answer; more: further keys of llama-server's body."""
        super().__init__(message)
        self.message, self.kind, self.headers, self.more = message, kind, dict(headers or {}), more
        self.status = status or STATUS[kind]


class ClientDisconnected(Exception):  # noqa: N818  # not an error: no client is left to answer
    """The client closed the connection before its answer was ready."""


Dialect: TypeAlias = "Callable[[ApiError], dict[str, Any]]"  # an error -> the body that says it


def llama_body(e: ApiError) -> dict[str, Any]:
    """As llama-server writes an error that a handler found."""
    return {"error": {"code": e.status, "message": e.message, "type": e.kind, **e.more}}


def front_body(e: ApiError) -> dict[str, Any]:
    """As llama-server writes an error found before any handler: no such path, no key, still loading."""
    return {"error": {"message": e.message, "type": e.kind, "code": e.status}}


def ollama_body(e: ApiError) -> dict[str, Any]:
    """As Ollama writes an error."""
    return {"error": e.message}


TEI_KINDS = {400: "Empty", 422: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}


def tei_body(e: ApiError) -> dict[str, Any]:
    """As Text Embeddings Inference writes an error."""
    return {"error": e.message, "error_type": TEI_KINDS.get(e.status, "Backend")}


def as_api_error(e: Exception) -> ApiError:
    """An error from below as an answer: the request's fault is 400, the model's or our own 500."""
    if isinstance(e, ApiError):
        return e
    if isinstance(e, RequestError):
        return ApiError(" ".join(str(e).split()))
    if isinstance(e, RefembedError):
        return ApiError(" ".join(str(e).split()), "server_error")
    return ApiError(f"refembed failed: {type(e).__name__}: {' '.join(str(e).split())}", "server_error")
