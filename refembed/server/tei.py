"""Text Embeddings Inference's endpoints: /embed (and / for short), /embed_sparse, /embed_all, /similarity, /info.

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
from refembed.server.json_text import array, dumps
from refembed.server.reading import MAX_TEI_INPUTS, read_similarity, read_tei, read_tei_all
from refembed.server.replies import read_body, reply, rows, streamed, vectors_of
from refembed.server.state import State
from refembed.server.worker import SPARSE, Job
from refembed.similarity import cosine


async def embed(state: State, request: Request) -> Response:
    """POST /embed, /: a list of vectors, of unit length unless `normalize` is false."""
    reading = await state.read(request, read_tei, await read_body(request))
    job = Job(reading.ids, state.how, reading.options["normalize"], reading.options["dimensions"])
    return await streamed(state, vectors_of(await state.vectors(request, job)))


async def embed_all(state: State, request: Request) -> Response:
    """POST /embed_all: each token's vector, as it is."""
    reading = await state.read(request, read_tei_all, await read_body(request))
    vectors = await state.vectors(request, Job(reading.ids, "none", -1))
    return await streamed(state, array(b"".join(rows(v)) for v in vectors))


async def embed_sparse(state: State, request: Request) -> Response:
    """POST /embed_sparse: token ids and their weights, of a model with a sparse head; 424 where it has none."""
    if "refembed.sparse.kind" not in state.embedder.file.metadata:
        raise ApiError("Model is not an embedding model with SPLADE pooling", status=424)
    reading = await state.read(request, read_tei_all, await read_body(request))
    found: list[Any] = await state.vectors(request, Job(reading.ids, SPARSE))
    texts = (zip(v.ids.tolist(), v.weights.tolist(), strict=True) for v in found)
    rows_of = (array(dumps({"index": i, "value": w}) for i, w in pairs) for pairs in texts)
    return await streamed(state, array(b"".join(row) for row in rows_of))


async def similarity(state: State, request: Request) -> Response:
    """POST /similarity: the cosine of a sentence with each of several."""
    reading = await state.read(request, read_similarity, await read_body(request))
    first, *others = await state.vectors(request, Job(reading.ids, state.how, 2))
    return await streamed(state, array(dumps(float(np.float32(cosine(first, v)))) for v in others))


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
            "max_client_batch_size": MAX_TEI_INPUTS,
            "auto_truncate": False,
            "tokenization_workers": 2,
            "version": f"refembed {__version__}",
            "sha": None,
            "docker_label": None,
            "architecture": i.architecture,
        }
    )
