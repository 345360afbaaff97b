"""Ollama's endpoints: /api/embed, /api/embeddings, /api/tags, /api/version.

The server has one model; whatever model a request names is that one, and its name is echoed. Mirrors EmbedHandler,
EmbeddingsHandler and ListHandler of Ollama's server/routes.go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime, timezone

from starlette.requests import Request
from starlette.responses import Response

from refembed._version import __version__
from refembed.server.reading import Body, read_ollama, read_ollama_one
from refembed.server.replies import numbers, read_body, reply, streamed, vectors_of
from refembed.server.state import State
from refembed.server.worker import Job


async def embed(state: State, request: Request) -> Response:
    """POST /api/embed: unit vectors of one text or several; one that is too long is cut unless truncate is false."""
    begin = time.perf_counter_ns()
    reading = await state.read(request, read_ollama, await read_body(request))
    if not reading.ids:
        return await streamed(state, iter((b'{"model":', reading.model, b',"embeddings":[]}')))
    job = Job(reading.ids, state.how, 2, reading.options["dimensions"])
    vectors = await state.vectors(request, job)

    def answer() -> Iterator[Body]:
        yield b'{"model":'
        yield reading.model
        yield b',"embeddings":'
        yield from vectors_of(vectors)
        shape = b',"total_duration":%d,"load_duration":0,"prompt_eval_count":%d}'
        yield shape % (time.perf_counter_ns() - begin, job.n_tokens)

    return await streamed(state, answer())


async def embed_one(state: State, request: Request) -> Response:
    """POST /api/embeddings: the vector of one prompt, not normalized."""
    reading = await state.read(request, read_ollama_one, await read_body(request))
    vectors = await state.vectors(request, Job(reading.ids, state.how, -1))
    vector = numbers(vectors[0]) if vectors else b"[]"
    return await streamed(state, iter((b'{"embedding":', vector, b"}")))


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
