"""Ollama's endpoints: /api/embed, /api/embeddings, /api/tags, /api/version.

The server has one model; whatever model a request names is that one, and its name is echoed. Mirrors EmbedHandler,
EmbeddingsHandler and ListHandler of Ollama's server/routes.go.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from refembed._version import __version__
from refembed.server.errors import ApiError
from refembed.server.inputs import truncate_or_raise
from refembed.server.json_errors import dumps, field, loads
from refembed.server.replies import numbers, raw_reply, read_body, reply
from refembed.server.state import State
from refembed.server.worker import Job


async def embed(state: State, request: Request) -> Response:
    """POST /api/embed: unit vectors of one text or several; one that is too long is cut unless truncate is false."""
    begin = time.perf_counter_ns()
    body = await state.off_loop(request, read_object, await read_body(request))
    given: Any = body.get("input")
    texts = [given] if given and isinstance(given, str) else [] if given in (None, "") else given
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise ApiError("invalid input type")
    # Go reads no number from a truth, where llama-server does
    dimensions = 0 if isinstance(body.get("dimensions"), bool) else field(body, "dimensions", 0)
    if not 0 < dimensions < state.embedder.width(state.how):
        dimensions = None  # as there: a number out of range is no cut
    one_vector(state)
    if not texts:
        return reply({"model": field(body, "model", state.settings.name), "embeddings": []})
    ids = await state.off_loop(request, tokens_of, state, texts, field(body, "truncate", True))
    vectors = await state.vectors(request, Job(ids, state.how, 2, dimensions))

    def answer() -> bytes:
        return dumps(
            {
                "model": field(body, "model", state.settings.name),
                "embeddings": [numbers(v) for v in vectors],
                "total_duration": time.perf_counter_ns() - begin,
                "load_duration": 0,
                "prompt_eval_count": sum(map(len, ids)),
            }
        )

    return raw_reply(await state.off_loop(request, answer))


async def embed_one(state: State, request: Request) -> Response:
    """POST /api/embeddings: the vector of one prompt, not normalized."""
    body = await state.off_loop(request, read_object, await read_body(request))
    prompt = body.get("prompt", "")
    if not isinstance(prompt, str):
        raise ApiError("invalid prompt type")
    one_vector(state)
    if not prompt:
        return reply({"embedding": []})
    ids = await state.off_loop(request, tokens_of, state, [prompt], True)
    (vector,) = await state.vectors(request, Job(ids, state.how, -1))
    return reply({"embedding": numbers(vector)})


def read_object(raw: bytes) -> dict[str, Any]:
    """The body, which must be an object."""
    if not raw.strip():
        raise ApiError("missing request body")
    body = loads(raw)
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    return body


def one_vector(state: State) -> None:
    """ApiError for a server that gives each token a vector, or scores."""
    if state.how in ("none", "rank"):
        hint = "start the server with another --pooling"
        raise ApiError(f"pooling {state.how} gives a text no vector: {hint}", "not_supported_error")


def tokens_of(state: State, texts: list[str], truncate: bool) -> list[list[int]]:
    """Token ids of texts."""
    state.check_inputs(len(texts))
    ids = [state.embedder.tokenize(text) for text in texts]
    if not all(ids):
        raise ApiError("an input has no tokens")
    if not truncate and max(map(len, ids), default=0) > state.limits.longest:
        raise ApiError("the input length exceeds the context length")
    return [truncate_or_raise(state, i, truncate) for i in ids]


async def tags(state: State, request: Request) -> Response:
    """GET /api/tags: the one model."""
    info, facts = state.embedder.info, state.facts
    kind = facts.file_type.removeprefix("all ").replace(" - ", "_")
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": info.architecture,
        "families": [info.architecture],
        "parameter_size": size_word(facts.n_params),
        "quantization_level": kind,
    }
    model = {
        "name": state.settings.name,
        "model": state.settings.name,
        "modified_at": datetime.fromtimestamp(facts.modified, timezone.utc).isoformat(),
        "size": info.file_size,
        "digest": await asyncio.to_thread(getattr, state, "sha256"),
        "details": details,
    }
    return reply({"models": [model]})


def size_word(n: int) -> str:
    """Parameters as 22.6M, 1.2B."""
    for unit, word in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= unit:
            return f"{n / unit:.2f}{word}" if word == "M" else f"{n / unit:.1f}{word}"
    return str(n)


async def version(state: State, request: Request) -> Response:
    """GET /api/version: refembed's own."""
    return reply({"version": __version__})
