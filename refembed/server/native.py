"""llama-server's own endpoints that compute: embeddings, OpenAI's form of them, rerank, tokens.

Mirrors handle_embeddings_impl, post_rerank, post_tokenize and post_detokenize of tools/server/server-context.cpp.
What it adds: `dimensions`, `truncate`, and 400 where llama-server's answer is an accident (docs/server.md).
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from refembed.arrays import F32
from refembed.server.errors import ApiError
from refembed.server.inputs import check_vocabulary, read_inputs, tokenize_mixed, truncate_or_raise
from refembed.server.json_errors import dumps, field, loads, to_int, to_string, wrong_type
from refembed.server.replies import encoded, numbers, raw_reply, read_body, rows
from refembed.server.state import State
from refembed.server.worker import Job
from refembed.tokenizer.pairs import encode_pair


async def embeddings(state: State, request: Request) -> Response:
    """POST /embedding, /embeddings: an array of {index, embedding: rows}."""
    return await embed(state, request, openai=False)


async def embeddings_openai(state: State, request: Request) -> Response:
    """POST /v1/embeddings: OpenAI's form."""
    if state.how == "none":
        raise ApiError("Pooling type 'none' is not OAI compatible. Please use a different pooling type")
    return await embed(state, request, openai=True)


async def embed(state: State, request: Request, openai: bool) -> Response:
    body, job, as_base64 = await state.off_loop(request, read_embed, state, await read_body(request))
    vectors = await state.vectors(request, job)
    openai = openai and "input" in body  # "content" is not OpenAI's word
    return raw_reply(await state.off_loop(request, write_embed, state, body, job, vectors, openai, as_base64))


def read_embed(state: State, raw: bytes) -> tuple[dict[str, Any], Job, bool]:
    """The body, its texts as a job, and whether vectors are wanted as base64."""
    body = loads(raw)
    if not isinstance(body, dict) or not ("input" in body or "content" in body):
        raise ApiError('"input" or "content" must be provided')
    encoding = to_string(body.get("encoding_format", "float"))
    if encoding not in ("float", "base64"):
        raise ApiError("The format to return the embeddings in. Can be either float or base64")
    prompt = body["input"] if "input" in body else body["content"]
    ids = read_inputs(state, prompt, field(body, "truncate", False))
    normalize = to_int(body.get("embd_normalize", state.settings.embd_normalize))
    return body, job_of(state, ids, normalize, body.get("dimensions")), encoding == "base64"


def job_of(state: State, ids: list[list[int]], normalize: int, dimensions: Any = None) -> Job:
    """A job for texts; the tokens' own vectors, and a reranker's scores, are never normalized."""
    if dimensions is not None:
        dimensions = to_int(dimensions)
    state.embedder.resolve_options(state.how, normalize, dimensions)
    return Job(ids, state.how, -1 if state.how in ("none", "rank") else normalize, dimensions)


def write_embed(
    state: State, body: dict[str, Any], job: Job, vectors: list[F32], openai: bool, as_base64: bool
) -> bytes:
    if not openai:
        return dumps([{"index": i, "embedding": rows(v)} for i, v in enumerate(vectors)])
    data: list[dict[str, Any]] = []
    for i, vector in enumerate(vectors):
        item = {"embedding": encoded(vector) if as_base64 else numbers(vector), "index": i, "object": "embedding"}
        data.append(item | ({"encoding_format": "base64"} if as_base64 else {}))
    return dumps({**head(state, body, sum(map(len, job.ids))), "data": data})


def head(state: State, body: dict[str, Any], n_tokens: int) -> dict[str, Any]:
    """What OpenAI's form of an answer begins with."""
    model = field(body, "model", state.settings.name)
    return {"model": model, "object": "list", "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens}}


async def rerank(state: State, request: Request) -> Response:
    """POST /rerank, /reranking, /v1/rerank, /v1/reranking: documents by their score, best first."""
    if state.how != "rank":
        message = "This server does not support reranking. Start it with `--reranking`"
        raise ApiError(message, "not_supported_error")
    body, documents, job = await state.off_loop(request, read_rerank, state, await read_body(request))
    vectors = await state.vectors(request, job)
    scores = [float(v[0]) for v in vectors]
    return raw_reply(await state.off_loop(request, lambda: dumps(write_rerank(state, body, documents, job, scores))))


def read_rerank(state: State, raw: bytes) -> tuple[dict[str, Any], list[str], Job]:
    """The body, its documents, and the pairs as a job."""
    body = loads(raw)
    if not isinstance(body, dict) or "query" not in body:
        raise ApiError('"query" must be provided')
    query = body["query"]
    if not isinstance(query, str):
        raise ApiError('"query" must be a string')
    documents = next((d for key in ("documents", "texts") if strings(d := body.get(key))), None)
    if not documents:
        raise ApiError('"documents" must be a non-empty string array')
    state.check_inputs(len(documents))
    if field(body, "top_n", 0) < 0:
        raise ApiError('"top_n" must not be negative')
    truncate = field(body, "truncate", False)
    pairs = [encode_pair(state.embedder.tokenizer, query, document, "server") for document in documents]
    if not all(pairs):
        raise ApiError("Input content cannot be empty")
    return body, documents, Job([truncate_or_raise(state, pair, truncate) for pair in pairs], "rank", -1)


def strings(value: Any) -> bool:
    """Whether this is an array of strings."""
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def write_rerank(state: State, body: dict[str, Any], documents: list[str], job: Job, scores: list[float]) -> Any:
    """Jina's form of an answer, or where the request said `texts`, that of Text Embeddings Inference."""
    tei = "texts" in body
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: field(body, "top_n", len(scores))]
    results: list[dict[str, Any]] = []
    for i in best:
        result: dict[str, Any] = {"index": i, "score" if tei else "relevance_score": scores[i]}
        if tei and field(body, "return_text", False):
            result["text"] = documents[i]
        if not tei and field(body, "return_documents", False):
            result["document"] = documents[i]
        results.append(result)
    return results if tei else {**head(state, body, sum(map(len, job.ids))), "results": results}


async def tokenize(state: State, request: Request) -> Response:
    """POST /tokenize: ids, or with `with_pieces` what they stand for as well."""
    return raw_reply(await state.off_loop(request, tokens_of, state, await read_body(request)))


def tokens_of(state: State, raw: bytes) -> bytes:
    body, tokenizer = loads(raw), state.embedder.tokenizer
    if not isinstance(body, dict) or "content" not in body:
        return dumps({"tokens": []})
    flags = field(body, "add_special", False), field(body, "parse_special", True)
    ids = tokenize_mixed(tokenizer, body["content"], *flags)
    if not field(body, "with_pieces", False):
        return dumps({"tokens": ids})
    check_vocabulary(state, ids)
    return dumps({"tokens": [{"id": i, "piece": spelled(tokenizer.piece(i))} for i in ids]})


def spelled(piece: bytes) -> str | list[int]:
    """A token's bytes: text where they are UTF-8, else numbers."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


async def detokenize(state: State, request: Request) -> Response:
    """POST /detokenize: the text of ids, special tokens spelled out."""
    return raw_reply(await state.off_loop(request, text_of, state, await read_body(request)))


def text_of(state: State, raw: bytes) -> bytes:
    """The answer: the tokens' pieces, one after the other."""
    body = loads(raw)
    if not isinstance(body, dict) or "tokens" not in body:
        return dumps({"content": ""})
    if not isinstance(body["tokens"], list):
        raise wrong_type("array", body["tokens"])
    ids = [to_int(i) for i in body["tokens"]]
    check_vocabulary(state, ids)
    return dumps({"content": b"".join(map(state.embedder.tokenizer.piece, ids)).decode(errors="replace")})
