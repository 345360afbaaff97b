"""The application: every route in one table, and what stands in front of them all.

A request passes: CORS headers, is the model loaded, API key, route, handler, errors as JSON. Mirrors the middleware of
tools/server/server-http.cpp, whose routing knows no 405: a wrong method is a path that does not exist.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from refembed.server import info, native, ollama, openapi, status, tei
from refembed.server.errors import (
    ApiError,
    ClientDisconnected,
    Dialect,
    as_api_error,
    front_body,
    llama_body,
    ollama_body,
    tei_body,
)
from refembed.server.replies import reply
from refembed.server.state import State

log = logging.getLogger("refembed.server")

Handler: TypeAlias = Callable[[State, Request], Awaitable[Response]]

# (method, path) -> handler, and whose words its errors are in
ROUTES: dict[tuple[str, str], tuple[Handler, Dialect]] = {
    # llama-server
    ("GET", "/health"): (info.health, llama_body),
    ("GET", "/v1/health"): (info.health, llama_body),
    ("GET", "/models"): (info.models, llama_body),
    ("GET", "/v1/models"): (info.models, llama_body),
    ("GET", "/props"): (info.props, llama_body),
    ("POST", "/props"): (info.change_props, llama_body),
    ("GET", "/slots"): (info.slots, llama_body),
    ("POST", "/slots/:id_slot"): (info.slot_action, llama_body),
    ("GET", "/metrics"): (info.metrics, llama_body),
    ("GET", "/lora-adapters"): (info.adapters, llama_body),
    ("POST", "/embedding"): (native.embeddings, llama_body),
    ("POST", "/embeddings"): (native.embeddings, llama_body),
    ("POST", "/v1/embeddings"): (native.embeddings_openai, llama_body),
    ("POST", "/rerank"): (native.rerank, llama_body),
    ("POST", "/reranking"): (native.rerank, llama_body),
    ("POST", "/v1/rerank"): (native.rerank, llama_body),
    ("POST", "/v1/reranking"): (native.rerank, llama_body),
    ("POST", "/tokenize"): (native.tokenize, llama_body),
    ("POST", "/detokenize"): (native.detokenize, llama_body),
    ("GET", "/openapi.json"): (openapi.serve, llama_body),
    ("GET", "/"): (status.page, llama_body),
    ("GET", "/index.html"): (status.page, llama_body),
    ("GET", "/status"): (status.status, llama_body),
    # Ollama
    ("POST", "/api/embed"): (ollama.embed, ollama_body),
    ("POST", "/api/embeddings"): (ollama.embed_one, ollama_body),
    ("GET", "/api/tags"): (ollama.tags, ollama_body),
    ("GET", "/api/version"): (ollama.version, ollama_body),
    # Text Embeddings Inference
    ("POST", "/embed"): (tei.embed, tei_body),
    ("POST", "/"): (tei.embed, tei_body),  # where huggingface_hub asks a server that it only knows by its address
    ("POST", "/embed_sparse"): (tei.embed_sparse, tei_body),
    ("POST", "/embed_all"): (tei.embed_all, tei_body),
    ("POST", "/similarity"): (tei.similarity, tei_body),
    ("GET", "/info"): (tei.info, tei_body),
}

# llama-server's endpoints that write text, and those that are off unless asked for
GENERATES = (
    "/completion", "/completions", "/v1/completions", "/chat/completions", "/v1/chat/completions",
    "/v1/chat/completions/control", "/responses", "/v1/responses", "/v1/messages", "/infill", "/apply-template",
    "/v1/audio/transcriptions", "/audio/transcriptions", "/lora-adapters", "/v1/systemone", "/v1/streams/lookup",
    "/chat/completions/input_tokens", "/v1/chat/completions/input_tokens", "/responses/input_tokens",
    "/v1/responses/input_tokens", "/v1/messages/count_tokens",
)  # fmt: skip
ROUTES |= {("POST", path): (info.not_here, llama_body) for path in GENERATES}
ROUTES |= {(method, "/v1/stream"): (info.not_here, llama_body) for method in ("GET", "DELETE")}
ROUTES |= {("POST", path): (info.not_here, ollama_body) for path in ("/api/generate", "/api/chat")}
ROUTES |= {(m, p): (info.disabled, llama_body) for m in ("GET", "POST") for p in ("/tools", "/cors-proxy")}

PUBLIC = ("/health", "/v1/health")  # need no key
PAGES = ("/", "/index.html")  # nor do these: a browser has no way to send one; they hold no facts where keys are set
NEVER_LOADED = ApiError("Loading model", "unavailable_error")


class App:
    """The ASGI application. `state.ready` opens it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.keys = [digest(key.encode("utf-8", "surrogateescape")) for key in state.settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self.respond(request)
        except ClientDisconnected:
            return  # no client is left to answer
        response.headers.update(self.cors(request))
        response.headers["server"] = "llama.cpp"  # as llama-server: some clients look for it
        await response(scope, receive, send)

    async def respond(self, request: Request) -> Response:
        """The answer, whatever happens."""
        if request.method == "OPTIONS":
            return Response(headers={"content-type": "text/html", **self.preflight()})
        try:
            self.admit(request)
            handler, dialect = self.route(request)
        except ApiError as e:
            return reply(front_body(e), e.status)
        try:
            if request.method != "POST":
                return await handler(self.state, request)
            with self.state.admission.request() as held:
                request.state.held = held
                return await handler(self.state, request)
        except ClientDisconnected:
            raise
        except Exception as e:
            error = as_api_error(e)
            if not isinstance(e, ApiError):
                log.log(logging.ERROR if error.status == 500 else logging.INFO, "%s: %s", request.url.path, error)
                log.debug("its traceback", exc_info=e)
            response = reply(dialect(error), error.status)
            response.headers.update(error.headers)
            return response

    def admit(self, request: Request) -> None:
        """ApiError while the model is being loaded, and for a client without a key."""
        if request.method in ("GET", "HEAD") and request.url.path.removeprefix(self.state.settings.api_prefix) in PAGES:
            return
        if not self.state.loaded:
            raise NEVER_LOADED
        if self.keys and request.url.path not in PUBLIC and not self.has_key(request):
            raise ApiError("Invalid API Key", "authentication_error")

    def has_key(self, request: Request) -> bool:
        """Whether the request has one of the keys. Takes the same time whatever key it has."""
        given = dict(reversed(request.headers.raw))  # of two of a name the first counts
        key = given.get(b"authorization") or given.get(b"x-api-key", b"")
        hashed = digest(key.removeprefix(b"Bearer "))
        return sum([hmac.compare_digest(hashed, key) for key in self.keys]) > 0  # a list: all are compared

    def route(self, request: Request) -> tuple[Handler, Dialect]:
        """The row of ROUTES. ApiError 404 where there is none."""
        path, prefix = request.url.path, self.state.settings.api_prefix
        if path.startswith(prefix):
            path = path.removeprefix(prefix)
            path = "/slots/:id_slot" if path.startswith("/slots/") else path
            method = "GET" if request.method == "HEAD" else request.method
            if found := ROUTES.get((method, path)):
                return found
        raise ApiError("File Not Found", "not_found_error")

    def cors(self, request: Request) -> dict[str, str]:
        """The header that says to a browser whose page may read the answer."""
        s, origin = self.state.settings, request.headers.get("origin", "")
        if s.cors_credentials and s.cors_origins == "*":
            return {"access-control-allow-origin": origin}
        if s.cors_origins == "localhost":
            return {"access-control-allow-origin": origin} if is_local(origin) else {}
        return {"access-control-allow-origin": s.cors_origins}

    def preflight(self) -> dict[str, str]:
        """What a browser asks before it sends a request to another site."""
        s = self.state.settings
        return {
            "access-control-allow-credentials": "true" if s.cors_credentials else "false",
            "access-control-allow-methods": s.cors_methods,
            "access-control-allow-headers": s.cors_headers,
        }


def digest(key: bytes) -> bytes:
    """Of a key, so that comparing takes the same time whatever their lengths."""
    return hashlib.sha256(key).digest()


def is_local(origin: str) -> bool:
    """Whether an Origin is this machine."""
    try:
        return urlsplit(origin).hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:
        return False
