"""Text Embeddings Inference's endpoints: /embed (and / for short), /embed_all, /similarity, /info.

Mirrors router/src/server.rs and router/src/lib.rs of text-embeddings-inference.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from refembed._version import __version__
from refembed.server.errors import ApiError
from refembed.server.inputs import truncate_or_raise
from refembed.server.json_errors import dumps, field, is_integer, loads
from refembed.server.replies import numbers, raw_reply, read_body, reply, rows
from refembed.server.state import State
from refembed.server.worker import Job
from refembed.similarity import cosine

MAX_INPUTS = 2048  # of one request


async def embed(state: State, request: Request) -> Response:
    """POST /embed, /: a list of vectors, of unit length unless `normalize` is false."""
    body, ids = await state.off_loop(request, read_inputs, state, await read_body(request))
    if state.how == "none":
        raise validation("pooling none gives each token a vector; use /embed_all")
    if state.how == "rank":
        raise validation("`model is not an embedding model`")
    dimensions = body.get("dimensions")
    if dimensions is not None and not (is_integer(dimensions) and 1 <= dimensions <= state.embedder.width(state.how)):
        raise validation(f"`dimensions` must be between 1 and {state.embedder.width(state.how)}")
    normalize = 2 if field(body, "normalize", True) else -1
    vectors = await state.vectors(request, Job(ids, state.how, normalize, dimensions))
    return raw_reply(await state.off_loop(request, lambda: dumps([numbers(v) for v in vectors])))


async def embed_all(state: State, request: Request) -> Response:
    """POST /embed_all: each token's vector, as it is."""
    _, ids = await state.off_loop(request, read_inputs, state, await read_body(request))
    vectors = await state.vectors(request, Job(ids, "none", -1))
    return raw_reply(await state.off_loop(request, lambda: dumps([rows(v) for v in vectors])))


async def similarity(state: State, request: Request) -> Response:
    """POST /similarity: the cosine of a sentence with each of several."""
    body = await state.off_loop(request, read_object, await read_body(request))
    inputs = body.get("inputs")
    source = inputs.get("source_sentence") if isinstance(inputs, dict) else None
    sentences = inputs.get("sentences") if isinstance(inputs, dict) else None
    if not isinstance(source, str) or not isinstance(sentences, list):
        raise validation("`inputs` must have a `source_sentence` and a list of `sentences`")
    if not sentences:
        raise validation("`inputs.sentences` cannot be empty", 400)
    if state.how in ("none", "rank"):
        raise validation("`model is not an embedding model`")
    given = body.get("parameters")
    truncate = field(given if isinstance(given, dict) else {}, "truncate", False)
    ids = await state.off_loop(request, tokens_of, state, [source, *sentences], truncate)
    first, *others = await state.vectors(request, Job(ids, state.how, 2))
    return reply([float(np.float32(cosine(first, v))) for v in others])


async def info(state: State, request: Request) -> Response:
    """GET /info."""
    i, how = state.embedder.info, state.how
    kind: dict[str, Any] = {"embedding": {"pooling": how}} if how != "rank" else {"reranker": {"id2label": {}}}
    return reply(
        {
            "model_id": state.settings.name,
            "model_sha": await asyncio.to_thread(getattr, state, "sha256"),
            "model_dtype": state.facts.file_type,
            "served_model_name": state.settings.name,
            "model_type": kind,
            "max_concurrent_requests": state.settings.max_queue,
            "max_input_length": state.limits.longest,
            "max_batch_tokens": state.settings.batch_size,
            "max_batch_requests": None,
            "max_client_batch_size": MAX_INPUTS,
            "auto_truncate": False,
            "tokenization_workers": 2,
            "version": f"refembed {__version__}",
            "sha": None,
            "docker_label": None,
            "architecture": i.architecture,
        }
    )


def validation(message: str, status: int = 422) -> ApiError:
    """The request is not what the endpoint takes."""
    return ApiError(message, status=status)


def read_object(raw: bytes) -> dict[str, Any]:
    """The body, which must be an object."""
    body = loads(raw)
    if not isinstance(body, dict):
        raise validation("the body must be a JSON object")
    return body


def read_inputs(state: State, raw: bytes) -> tuple[dict[str, Any], list[list[int]]]:
    """The body and the token ids of `inputs`: a text, ids, or a list of such."""
    body = read_object(raw)
    if "inputs" not in body:
        raise validation("missing field `inputs`")
    inputs = body["inputs"]
    one = isinstance(inputs, str) or (isinstance(inputs, list) and any(map(is_integer, inputs)))
    texts = [inputs] if one else inputs
    if not isinstance(texts, list):
        raise validation("`inputs` must be a text, token ids, or a list of such")
    if not texts:
        raise validation("`inputs` cannot be empty", 400)
    return body, tokens_of(state, texts, field(body, "truncate", False))


def tokens_of(state: State, texts: list[Any], truncate: bool) -> list[list[int]]:
    """Token ids of texts, checked."""
    if len(texts) > MAX_INPUTS:
        raise validation(f"batch size {len(texts)} > maximum allowed batch size {MAX_INPUTS}")
    return [tokens_of_one(state, text, truncate) for text in texts]


def tokens_of_one(state: State, text: Any, truncate: bool) -> list[int]:
    """Token ids of one text."""
    if isinstance(text, str):
        ids = state.embedder.tokenize(text)
    elif isinstance(text, list) and all(map(is_integer, text)):
        ids = text
    else:
        raise validation("`inputs` must be a text, token ids, or a list of such")
    if not ids:
        raise validation("`inputs` cannot be empty", 400)
    longest = state.limits.longest
    if len(ids) > longest and not truncate:
        raise validation(f"`inputs` must have less than {longest} tokens. Given: {len(ids)}")
    return truncate_or_raise(state, ids, truncate)
