"""llama-server's own endpoints that compute: embeddings, OpenAI's form of them, rerank, tokens.

Mirrors handle_embeddings_impl, post_rerank, post_tokenize and post_detokenize of tools/server/server-context.cpp.
What it adds: `dimensions`, `truncate`, and 400 where llama-server's answer is an accident (docs/server.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from refembed.arrays import F32
from refembed.server.errors import ApiError
from refembed.server.json_text import array, dumps
from refembed.server.reading import Body, Reading, read_embed, read_rerank, text_answer, tokens_answer
from refembed.server.replies import encoded, numbers, raw_reply, read_body, rows, streamed
from refembed.server.state import State
from refembed.server.worker import Job


async def embeddings(state: State, request: Request) -> Response:
    """POST /embedding, /embeddings: an array of {index, embedding: rows}."""
    _, _, vectors = await embed(state, request)
    return await streamed(state, array(native_item(i, vector) for i, vector in enumerate(vectors)))


async def embeddings_openai(state: State, request: Request) -> Response:
    """POST /v1/embeddings: OpenAI's form."""
    if state.how == "none":
        raise ApiError("Pooling type 'none' is not OAI compatible. Please use a different pooling type")
    reading, job, vectors = await embed(state, request)
    if not reading.options["openai"]:
        return await streamed(state, array(native_item(i, vector) for i, vector in enumerate(vectors)))
    item = base64_item if reading.options["base64"] else float_item
    return await streamed(
        state, openai_answer(reading.model, job.n_tokens, (item(i, v) for i, v in enumerate(vectors)))
    )


async def embed(state: State, request: Request) -> tuple[Reading, Job, list[F32]]:
    """Read and compute."""
    reading = await state.read(request, read_embed, await read_body(request))
    normalize, dimensions = reading.options["normalize"], reading.options["dimensions"]
    state.embedder.resolve_options(state.how, normalize, dimensions)
    # the tokens' own vectors, and a reranker's scores, are never normalized
    job = Job(reading.ids, state.how, -1 if state.how in ("none", "rank") else normalize, dimensions, reading.images)
    return reading, job, await state.vectors(request, job)


def native_item(i: int, vector: F32) -> bytes:
    """One vector, or one a token, as llama-server writes it."""
    return b'{"index":%d,"embedding":%b}' % (i, b"".join(rows(vector)))


def float_item(i: int, vector: F32) -> bytes:
    """One vector as OpenAI writes it."""
    return b'{"embedding":%b,"index":%d,"object":"embedding"}' % (numbers(vector), i)


def base64_item(i: int, vector: F32) -> bytes:
    """Likewise, in base64."""
    shape = b'{"embedding":%b,"index":%d,"object":"embedding","encoding_format":"base64"}'
    return shape % (encoded(vector), i)


def openai_answer(model: Body, n_tokens: int, items: Iterator[bytes], key: bytes = b"data") -> Iterator[Body]:
    """OpenAI's form of an answer: the model, how many tokens were read, and the items under a key."""
    yield b'{"model":'
    yield model
    usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (n_tokens, n_tokens)
    yield b',"object":"list","usage":%b,"%b":' % (usage, key)
    yield from array(items)
    yield b"}"


async def rerank(state: State, request: Request) -> Response:
    """POST /rerank, /reranking, /v1/rerank, /v1/reranking: documents by their score, best first."""
    if state.how != "rank":
        message = "This server does not support reranking. Start it with `--reranking`"
        raise ApiError(message, "not_supported_error")
    reading = await state.read(request, read_rerank, await read_body(request))
    job = Job(reading.ids, "rank", -1)
    vectors = await state.vectors(request, job)
    return await streamed(state, rerank_answer(reading, job.n_tokens, vectors))


def rerank_answer(reading: Reading, n_tokens: int, vectors: list[F32]) -> Iterator[Body]:
    """Jina's form of an answer, or where the request said `texts`, that of Text Embeddings Inference."""
    scores, tei = [float(v[0]) for v in vectors], reading.options["tei"]
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: reading.options["top_n"]]
    items = (rerank_item(reading, i, scores[i]) for i in best)
    return array(items) if tei else openai_answer(reading.model, n_tokens, items, b"results")


def rerank_item(reading: Reading, i: int, score: float) -> bytes:
    """One document's score, and where it was asked for, its text."""
    names: tuple[Any, ...] = (b"score", b"text") if reading.options["tei"] else (b"relevance_score", b"document")
    item = b'{"index":%d,"%b":%b' % (i, names[0], dumps(score))
    return item + (b',"%b":%b}' % (names[1], bytes(reading.texts[i])) if reading.texts else b"}")


async def tokenize(state: State, request: Request) -> Response:
    """POST /tokenize: ids, or with `with_pieces` what they stand for as well."""
    return await raw_reply(request, await state.read(request, tokens_answer, await read_body(request)))


async def detokenize(state: State, request: Request) -> Response:
    """POST /detokenize: the text of ids, special tokens spelled out."""
    return await raw_reply(request, await state.read(request, text_answer, await read_body(request)))
