"""llama-server's endpoints that only tell: health, model list, properties, slots, metrics."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from refembed._version import __version__
from refembed.gguf import open_gguf
from refembed.server.errors import ApiError
from refembed.server.replies import read_body, reply
from refembed.server.state import State

if TYPE_CHECKING:
    from refembed.embedder import Embedder

# tokenizer.ggml.model -> enum llama_vocab_type
VOCAB_TYPES = {"no_vocab": 0, "llama": 1, "gpt2": 2, "bert": 3, "t5": 4, "rwkv": 5, "plamo2": 6}

# general.file_type (enum llama_ftype) -> llama.cpp's word for it: src/llama-model-loader.cpp
FILE_TYPES = {
    0: "all F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K - Medium",
    11: "Q3_K - Small", 12: "Q3_K - Medium", 13: "Q3_K - Large", 14: "Q4_K - Small", 15: "Q4_K - Medium",
    16: "Q5_K - Small", 17: "Q5_K - Medium", 18: "Q6_K", 19: "IQ2_XXS - 2.0625 bpw", 20: "IQ2_XS - 2.3125 bpw",
    21: "Q2_K - Small", 22: "IQ3_XS - 3.3 bpw", 23: "IQ3_XXS - 3.0625 bpw", 24: "IQ1_S - 1.5625 bpw",
    25: "IQ4_NL - 4.5 bpw", 26: "IQ3_S - 3.4375 bpw", 27: "IQ3_S mix - 3.66 bpw", 28: "IQ2_S - 2.5 bpw",
    29: "IQ2_M - 2.7 bpw", 30: "IQ4_XS - 4.25 bpw", 31: "IQ1_M - 1.75 bpw", 32: "BF16",
    36: "TQ1_0 - 1.69 bpw ternary", 37: "TQ2_0 - 2.06 bpw ternary", 38: "MXFP4 MoE", 39: "NVFP4", 40: "Q1_0",
    41: "Q2_0",
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What a model's file says that no vector needs."""

    vocab_type: int
    n_params: int
    size: int  # bytes of all tensors
    file_type: str
    bos: str
    eos: str
    chat_template: str
    causal: bool  # {arch}.attention.causal; llama.cpp takes true where the key is absent
    modified: float  # seconds since 1970

    @classmethod
    def of(cls, embedder: Embedder) -> Facts:
        """Read them."""
        info, tokenizer = embedder.info, embedder.tokenizer
        f = open_gguf(info.path)
        kind = f.metadata.get("general.file_type")
        bos, eos = (
            "" if i is None else tokenizer.piece(i).decode(errors="replace")
            for i in (tokenizer.vocab.bos, tokenizer.vocab.eos)
        )
        template = f.metadata.get("tokenizer.chat_template")
        return cls(
            VOCAB_TYPES.get(info.tokenizer, 0),
            sum(math.prod(t.shape) for t in f.tensors.values()),
            sum(t.nbytes for t in f.tensors.values()),
            FILE_TYPES.get(kind, "unknown, may not work") if isinstance(kind, int) else guessed(info.quant_types),
            bos,
            eos,
            template if isinstance(template, str) else "",
            f.metadata.flag(f"{info.architecture}.attention.causal", True),
            info.path.stat().st_mtime,
        )


def guessed(types: dict[str, int]) -> str:
    """The file type of a file that names none: after the type most tensors have, F32 only where there is no other."""
    names = [name for name in types if name != "F32"]
    return f"(guessed) {names[0] if names else 'all F32'}"


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
    model = {
        "id": s.name,
        "aliases": sorted(set(s.alias)) or [s.name],
        "tags": sorted(set(s.tags)),
        "object": "model",
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
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
            "modalities": {"vision": False, "video": False, "audio": False},
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
