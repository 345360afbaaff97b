"""llama-server's endpoints that only report: health, model list, properties, slots, metrics."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from refembed._version import __version__
from refembed.server.errors import ApiError
from refembed.server.replies import read_body, reply
from refembed.server.state import State


async def health(state: State, request: Request) -> Response:
    """GET /health, /v1/health."""
    return reply({"status": "ok"})


async def models(state: State, request: Request) -> Response:
    """GET /models, /v1/models: Ollama's form and OpenAI's in one."""
    s, info, facts = state.settings, state.embedder.info, state.facts
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": "",
        "families": [""],
        "parameter_size": "",
        "quantization_level": "",
    }
    entry: dict[str, Any] = {
        "name": s.name,
        "model": s.name,
        "modified_at": "",
        "size": "",
        "digest": "",
        "type": "model",
    }
    entry |= {"description": "", "tags": [""], "capabilities": ["completion"], "parameters": "", "details": details}
    meta = {
        "vocab_type": facts.vocab_type,
        "n_vocab": info.n_vocab,
        "n_ctx": state.limits.n_ctx,
        "n_ctx_train": info.n_ctx,
        "n_embd": info.n_embd,
        "n_params": facts.n_params,
        "size": facts.size,
        "ftype": facts.file_type,
    }
    vision = state.embedder.tower is not None
    model = {
        "id": s.name,
        "aliases": sorted(set(s.alias)) or [s.name],
        "tags": sorted(set(s.tags)),
        "object": "model",
        "architecture": {"input_modalities": ["text", "image"][: 1 + vision], "output_modalities": ["text"]},
        "created": int(time.time()),
        "owned_by": "llamacpp",
        "meta": meta,
    }
    return reply({"models": [entry], "object": "list", "data": [model]})


async def props(state: State, request: Request) -> Response:
    """GET /props. `refembed` in it is ours; settings of a text generator are empty."""
    s, info, facts = state.settings, state.embedder.info, state.facts
    own = {
        "version": __version__,
        "architecture": info.architecture,
        "pooling": state.how,
        "embd_normalize": s.embd_normalize,
        "n_embd_out": state.embedder.width(state.how),
        "n_batch": s.batch_size,
        "n_ubatch": state.limits.n_ubatch,
        "numerics": info.numerics,
    }
    return reply(
        {
            "default_generation_settings": {"params": {}, "n_ctx": state.limits.n_ctx},
            "total_slots": state.limits.slots,
            "model_alias": s.name,
            "model_ftype": facts.file_type,
            "model_path": str(info.path),
            "modalities": {"vision": state.embedder.tower is not None, "video": False, "audio": False},
            "media_marker": "<__media__>",
            "endpoint_slots": s.slots,
            "endpoint_props": s.props,
            "endpoint_metrics": s.metrics,
            "ui": False,
            "ui_settings": {},
            "chat_template": facts.chat_template,
            "chat_template_caps": {},
            "bos_token": facts.bos,
            "eos_token": facts.eos,
            "build_info": f"refembed {__version__}",
            "is_sleeping": False,
            "cors_proxy_enabled": False,
            "refembed": own,
        }
    )


async def change_props(state: State, request: Request) -> Response:
    """POST /props: nothing can be changed; as in llama-server that is a success if it was allowed."""
    if not state.settings.props:
        message = "This server does not support changing global properties. Start it with `--props`"
        raise ApiError(message, "not_supported_error")
    await read_body(request)
    return reply({"success": True})


async def slots(state: State, request: Request) -> Response:
    """GET /slots: as many as asked for. They are a way of counting: any number of requests share a batch."""
    if not state.settings.slots:
        message = "This server does not support slots endpoint. Start it with `--slots`"
        raise ApiError(message, "not_supported_error")
    busy, limits = state.metrics.processing, state.limits
    if request.query_params.get("fail_on_no_slot") and busy >= limits.slots:
        raise ApiError("no slot available", "unavailable_error")
    slot: dict[str, Any] = {"n_ctx": limits.n_ctx, "speculative": False}
    return reply([{"id": i, **slot, "is_processing": i < busy} for i in range(limits.slots)])


async def metrics(state: State, request: Request) -> Response:
    """GET /metrics."""
    if not state.settings.metrics:
        message = "This server does not support metrics endpoint. Start it with `--metrics`"
        raise ApiError(message, "not_supported_error")
    headers = {
        "content-type": "text/plain; version=0.0.4",
        "process-start-time-unix": str(state.metrics.started),
    }
    return Response(state.metrics.text(), headers=headers)


async def slot_action(state: State, request: Request) -> Response:
    """POST /slots/:id_slot: a slot has no state to save."""
    message = "This server does not support slots action. Start it with `--slot-save-path`"
    raise ApiError(message, "not_supported_error")


async def adapters(state: State, request: Request) -> Response:
    """GET /lora-adapters: those the model was started with."""
    found = state.embedder.adapters
    return reply([{"id": i, "path": str(a.path), "scale": a.scale} for i, a in enumerate(found)])


async def disabled(state: State, request: Request) -> Response:
    """/tools, /cors-proxy: llama-server's answer where they are not switched on."""
    return reply({"error": {"message": "this feature is disabled", "type": "feature_disabled"}}, 403)


async def not_here(state: State, request: Request) -> Response:
    """What needs a model that writes text."""
    message = f"{request.url.path} needs a model that writes text; this server only embeds"
    raise ApiError(message, "not_supported_error")
