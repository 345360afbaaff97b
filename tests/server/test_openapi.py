"""The OpenAPI document against the routes, and live answers against its schemas."""

from __future__ import annotations

from typing import Any

import pytest

from refembed.server import info, status
from refembed.server.app import ROUTES
from refembed.server.openapi import document
from tests.server.conftest import Pair

TYPES: dict[str, Any] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
}  # fmt: skip


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is what a schema says; the few words of JSON Schema that the document uses."""
    if "$ref" in schema:
        return fits(value, document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    choices = schema.get("anyOf") or schema.get("oneOf")
    return (
        (choices is None or any(fits(value, s) for s in choices))
        and ("const" not in schema or value == schema["const"])
        and ("enum" not in schema or value in schema["enum"])
        and ("type" not in schema or isinstance(value, TYPES[schema["type"]]))
        and ("minimum" not in schema or value >= schema["minimum"])
        and (not isinstance(value, list) or len(value) >= schema.get("minItems", 0))
        and (not isinstance(value, list) or all(fits(v, schema.get("items", {})) for v in value))
        and all(key in value for key in schema.get("required", ()))
        and all(fits(value[k], s) for k, s in schema.get("properties", {}).items() if k in value)
    )


def test_every_route_that_computes_or_tells_is_in_the_document() -> None:
    """And nothing else; /metrics and the page are no JSON."""
    aside = (info.not_here, info.disabled, info.slot_action, info.change_props, info.metrics, status.page)
    routes = {(m.lower(), p) for (m, p), (handler, _) in ROUTES.items() if handler not in aside}
    listed = {(method, path) for path, entry in document()["paths"].items() for method in entry}
    assert listed == routes - {("get", "/openapi.json")}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
BODIES: dict[str, list[Any]] = {
    "/embedding": [{"content": "a"}, {"input": ["a", [5], [5, "b"], {"prompt_string": "c"}]}, {"input": [7, 8]}],
    "/v1/embeddings": [{"input": "a"}, {"input": ["a", "b"], "encoding_format": "base64", "model": "m"}],
    "/tokenize": [{"content": "a b"}, {"content": ["a", 5], "with_pieces": True}],
    "/detokenize": [{"tokens": [101, 102]}],
    "/api/embed": [{"input": "a"}, {"input": []}],
    "/api/embeddings": [{"prompt": "a"}],
    "/embed": [{"inputs": "a"}, {"inputs": [[101], "b"], "normalize": False}],
    "/embed_all": [{"inputs": ["a"]}],
    "/similarity": [{"inputs": {"source_sentence": "a", "sentences": ["b"]}}],
}


@pytest.mark.oracle
def test_live_answers_are_what_the_document_says(pair: Pair) -> None:
    """Of each endpoint, and one error of each."""
    server = pair[0]
    found = server.get("/openapi.json").json
    assert found == document()
    for path, entry in found["paths"].items():
        [(method, about_it)] = entry.items()
        schemas = {k: r["content"]["application/json"]["schema"] for k, r in about_it["responses"].items()}
        for body in BODIES.get(path, []):
            assert fits(body, about_it["requestBody"]["content"]["application/json"]["schema"]), (path, body)
            answer = server.post(path, body)
            assert answer.status == 200
            assert fits(answer.json, schemas["200"]), (path, body)
        if method == "get":
            assert fits(server.get(path).json, schemas["200"]), path
        else:
            answer = server.post(path, b"{")
            assert answer.status >= 400
            assert fits(answer.json, schemas["4XX"]), path


@pytest.mark.oracle
def test_ranks_are_what_the_document_says(rerankers: Pair) -> None:
    schema = document()["paths"]["/rerank"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    for key in ("documents", "texts"):
        assert fits(rerankers[0].post("/rerank", {"query": "a", key: ["the cat"], "return_text": True}).json, schema)


@pytest.mark.parametrize(
    ("given", "is_one"),
    [
        ({"prompt_string": "a <__media__>", "multimodal_data": ["aGk="]}, True),
        ({"prompt_string": "a <__media__>", "multimodal_data": "aGk="}, False),
        ({"content": [{"type": "text", "text": "a"}, IMAGE]}, True),
        ({"content": [{"type": "image_url", "image_url": {}}]}, False),
        ({"content": [{"type": "input_audio"}]}, False),
    ],
)
def test_texts_with_images_are_in_the_document(given: Any, is_one: bool) -> None:
    """As llama-server takes them; tests/peers/test_serve_images.py sends them."""
    assert fits(given, {"$ref": "#/components/schemas/One"}) is is_one
