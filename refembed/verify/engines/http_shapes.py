"""How servers want to be asked for embeddings, and the shapes of what they answer.

Routes are a table; answers are recognized by their shape alone, because servers imitate each other's routes and not
always each other's answers (langroid/langroid#922 lists five in the wild):

| shape                                             | label            | seen from                                     |
|---------------------------------------------------|------------------|-----------------------------------------------|
| {"data": [{"embedding": [..], "index": 0}]}       | openai float     | OpenAI, llama-server /v1, vLLM, Ollama /v1    |
| {"data": [{"embedding": "base64"}]}               | openai base64    | the same, asked by the openai client          |
| {"data": [{"embedding": [[..], ..]}]}             | openai tokens    | llama-cpp-python with pooling none            |
| [{"index": 0, "embedding": [[..]]}]               | native           | llama-server /embedding, one row a token      |
| [{"index": 0, "embedding": [..]}]                 | native flat      | llama-server of 2024                          |
| {"embedding": [..]}, also [[..]]                  | single           | old llama-server, Ollama /api/embeddings      |
| {"results": [{"embedding": [..]}]}                | results          | old llama-server, given a list                |
| {"embeddings": [[..]]}                            | embeddings       | Ollama /api/embed; Cohere by type             |
| [[..]] and [[[..]]], [..] for one text            | bare             | TEI /embed and /embed_all, fastembed servers  |
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refembed.errors import EngineError
from refembed.verify.engines.base import Item

Body = dict[str, Any]


@dataclass(frozen=True)
class Route:
    """One way to ask.

    body   (texts, model's name or None, extra) -> the JSON to post
    many   takes several texts a request
    norm   the field that switches normalization, and its values for True and False; None: it has none
    """

    dialect: str
    path: str
    body: Callable[[Sequence[Item], str | None, Body], Body]
    many: bool = True
    ids: bool = False  # token ids in place of a text are in its API
    norm: tuple[str, Any, Any] | None = None


def with_model(model: str | None, body: Body) -> Body:
    """The model's name first, where there is one."""
    return body if model is None else {"model": model, **body}


def native(items: Sequence[Item], model: str | None, extra: Body) -> Body:
    """llama-server."""
    return with_model(model, {"input": list(items), **extra})


def openai(items: Sequence[Item], model: str | None, extra: Body) -> Body:
    """OpenAI. Floats unless `extra` asks for base64."""
    return with_model(model, {"input": list(items), "encoding_format": "float", **extra})


def content(items: Sequence[Item], model: str | None, extra: Body) -> Body:
    """llama-server before it took lists."""
    return {"content": items[0], **extra}


def ollama(items: Sequence[Item], model: str | None, extra: Body) -> Body:
    """Ollama; truncate false: a text that is too long is an error, not another text."""
    return with_model(model, {"input": list(items), "truncate": False, **extra})


def prompt(items: Sequence[Item], model: str | None, extra: Body) -> Body:
    """Ollama's older route."""
    return with_model(model, {"prompt": items[0], **extra})


def inputs(items: Sequence[Item], model: str | None, extra: Body) -> Body:
    """Text Embeddings Inference."""
    return {"inputs": list(items), "truncate": False, **extra}


# in the order in which they are tried where the server does not say what it is
ROUTES = (
    Route("native",        "/embeddings",     native,  ids=True, norm=("embd_normalize", 2, -1)),
    Route("openai",        "/v1/embeddings",  openai,  ids=True),
    Route("native single", "/embedding",      content, ids=True, many=False, norm=("embd_normalize", 2, -1)),
    Route("ollama",        "/api/embed",      ollama),
    Route("ollama single", "/api/embeddings", prompt,  many=False),
    Route("tei",           "/embed",          inputs,  ids=True, norm=("normalize", True, False)),
    Route("tei tokens",    "/embed_all",      inputs,  ids=True),
)  # fmt: skip
OPENAI = ROUTES[1]
SERVERS = {  # server: its routes, best first
    "llama-server": ("native", "native single", "openai"),
    "ollama": ("ollama", "ollama single", "openai"),
    "tei": ("tei", "openai"),
    "openai": ("openai",),
    "": tuple(r.dialect for r in ROUTES),
}


class Found(NamedTuple):
    """What an answer holds."""

    shape: str
    vectors: list[Any]  # (D) or rows (T, D) each
    order: list[int] | None  # what the server says about the order


def embeddings(answer: Any, who: str) -> Found:
    """The vectors in an answer, whatever its shape; in the server's order, `order` still to be obeyed.

    EngineError, naming what was found, where no shape of the table fits.
    """
    if isinstance(answer, dict):
        return from_object(answer, who)
    if isinstance(answer, list):
        return from_list(answer, who)
    raise EngineError(f"{who} answered with {kind(answer)}, which is no shape of embeddings")


def from_object(answer: Body, who: str) -> Found:
    """The shapes that are JSON objects."""
    if answer.get("error"):
        raise EngineError(f"{who} answered with an error inside a success: {answer['error']!r:.300}")
    for key, label in (("data", "openai"), ("results", "results"), ("embeddings", "embeddings")):
        found = answer.get(key)
        if isinstance(found, dict) and key == "embeddings":  # Cohere: by type
            found = found.get("float")
        if isinstance(found, list):
            if not found:
                raise EngineError(f"{who} answered with an empty list {key!r}: no vector at all")
            return from_entries(found, label, who)
    one = answer.get("embedding")
    if one is not None:
        values = one.get("values") if isinstance(one, dict) else one
        return Found("single", [decoded(values, who)], None)
    raise EngineError(f"{who} answered with {kind(answer)}, which is no shape of embeddings")


def from_list(answer: list[Any], who: str) -> Found:
    """The shapes that are JSON arrays."""
    if not answer:
        raise EngineError(f"{who} answered with an empty list: no vector at all")
    if isinstance(answer[0], dict):
        return from_entries(answer, "native", who)
    if isinstance(answer[0], (list, str)):
        return Found("bare", [decoded(v, who) for v in answer], None)
    return Found("bare single", [answer], None)


def from_entries(entries: list[Any], label: str, who: str) -> Found:
    """A list of objects with `embedding`, or of vectors."""
    if not all(isinstance(e, dict) for e in entries):
        return Found(label, [decoded(e, who) for e in entries], None)
    values = [e.get("embedding", e.get("values")) for e in entries]
    missing = next((i for i, v in enumerate(values) if v is None), None)
    if missing is not None:
        hint = "null here is how servers write NaN"
        raise EngineError(f"{who}: entry {missing} has no embedding: {kind(entries[missing])}", hint=hint)
    first = values[0]
    nested = isinstance(first, list) and bool(first) and isinstance(first[0], list)
    form = {"openai": "base64" if isinstance(first, str) else "tokens" if nested else "float"}.get(label)
    form = form or ("flat" if label == "native" and not nested else "")
    index = [e.get("index") for e in entries]
    ordered = index if all(isinstance(i, int) and not isinstance(i, bool) for i in index) else None
    return Found(f"{label} {form}".strip(), [decoded(v, who) for v in values], ordered)


def decoded(value: Any, who: str) -> Any:
    """A vector as it is, or out of base64: little-endian float32."""
    if not isinstance(value, str):
        return value
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise EngineError(f"{who} answered with a string that is not base64: {value[:40]!r}") from None
    if len(raw) % 4:
        raise EngineError(f"{who} answered with base64 of {len(raw)} bytes, which is no number of float32")
    return np.frombuffer(raw, "<f4")


def in_order(found: Found, n: int, who: str) -> list[Any]:
    """The vectors in the order of the n texts, as `index` says."""
    if len(found.vectors) != n:
        raise EngineError(f"{who} gave {len(found.vectors)} vectors for {n} texts ({found.shape})")
    if found.order is None or n == 1:
        return found.vectors
    if sorted(found.order) != list(range(n)):
        raise EngineError(f"{who} numbered {n} vectors {found.order[:8]}: each of 0 to {n - 1} once is meant")
    return [v for _, v in sorted(zip(found.order, found.vectors, strict=True), key=lambda pair: pair[0])]


def kind(value: Any) -> str:
    """What JSON this is, in a message."""
    if isinstance(value, dict):
        return "an object with the keys " + (", ".join(map(repr, list(value)[:6])) or "(none)")
    return {"list": "a list", "NoneType": "null"}.get(type(value).__name__, f"{value!r:.60}")
