"""GET /openapi.json: what the server takes and gives, for tools that read it (OpenAPI 3.1).

A row an endpoint; schemas are JSON Schema.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from refembed._version import __version__
from refembed.server.replies import reply
from refembed.server.state import State

TEXT, INT, NUMBER, FLAG = ({"type": t} for t in ("string", "integer", "number", "boolean"))
ANY: dict[str, Any] = {}


def many(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An array."""
    return {"type": "array", "items": items, **more}


def record(required: str = "", /, **fields: dict[str, Any]) -> dict[str, Any]:
    """An object with these fields, of which the named ones must be there."""
    return {"type": "object", "properties": fields, "required": required.split()}


def one_of(*names: str) -> dict[str, Any]:
    """That at least one of these fields must be there."""
    return {"anyOf": [{"required": [name]} for name in names]}


def named(name: str) -> dict[str, Any]:
    """A schema of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


MIXED = many({"oneOf": [INT, TEXT]})
USAGE = record("prompt_tokens total_tokens", prompt_tokens=INT, total_tokens=INT)
MATRIX_SCHEMA = many(many(NUMBER))
TEXT_PART = record("type text", type={"const": "text"}, text=TEXT)
IMAGE_URL = {"type": "string", "pattern": "^data:image/[a-z]+;base64,"}  # nothing is fetched
IMAGE_PART = record("type image_url", type={"const": "image_url"}, image_url=record("url", url=IMAGE_URL))

SCHEMAS: dict[str, dict[str, Any]] = {
    "One": {
        "description": "A text: characters, token ids, or both; with images, where the server has a vision tower: a "
        "marker (`media_marker` of /props) for each of `multimodal_data`, files in base64, or OpenAI's parts",
        "anyOf": [
            TEXT,
            many(INT, minItems=1),
            MIXED,
            record("prompt_string", prompt_string={"anyOf": [TEXT, MIXED]}, multimodal_data=many(TEXT)),
            record("content", content=many({"anyOf": [TEXT_PART, IMAGE_PART]})),
        ],
    },
    "Texts": {"anyOf": [named("One"), many(named("One"), minItems=1)]},
    "Embed": record(
        input=named("Texts"),
        content=named("Texts"),
        model=TEXT,
        encoding_format={"enum": ["float", "base64"]},
        embd_normalize={"type": "integer", "minimum": -1},
        dimensions={"type": "integer", "minimum": 1},
        truncate=FLAG,
    )
    | one_of("input", "content"),
    "Rerank": record(
        "query",
        query=TEXT,
        documents=many(TEXT, minItems=1),
        texts=many(TEXT, minItems=1),
        top_n={"type": "integer", "minimum": 0},
        return_text=FLAG,
        return_documents=FLAG,
        truncate=FLAG,
    )
    | one_of("documents", "texts"),
    "Tei": record(
        "inputs",
        inputs={"anyOf": [TEXT, many(INT, minItems=1), many({"anyOf": [TEXT, many(INT, minItems=1)]}, minItems=1)]},
        truncate=FLAG,
        normalize=FLAG,
        dimensions={"type": "integer", "minimum": 1},
    ),
    "Native": many(record("index embedding", index=INT, embedding=MATRIX_SCHEMA)),
    "OpenAI": record(
        "model object usage data",
        model=TEXT,
        object={"const": "list"},
        usage=USAGE,
        data=many(
            record(
                "embedding index object",
                embedding={"oneOf": [many(NUMBER), TEXT]},
                index=INT,
                object={"const": "embedding"},
                encoding_format={"const": "base64"},
            )
        ),
    ),
    "Ranks": {
        "anyOf": [
            record(
                "model object usage results",
                model=TEXT,
                object={"const": "list"},
                usage=USAGE,
                results=many(record("index relevance_score", index=INT, relevance_score=NUMBER, document=TEXT)),
            ),
            many(record("index score", index=INT, score=NUMBER, text=TEXT)),
        ]
    },
    "Error": record("error", error=record("code message type", code=INT, message=TEXT, type=TEXT)),
    "OllamaError": record("error", error=TEXT),
    "TeiError": record("error error_type", error=TEXT, error_type=TEXT),
}

PIECE = record("id piece", id=INT, piece={"oneOf": [TEXT, many(INT)]})
COMPARE = record(
    "inputs", inputs=record("source_sentence sentences", source_sentence=TEXT, sentences=many(TEXT, minItems=1))
)
SPARSE_VALUE = record("index value", index=INT, value=NUMBER)
OLLAMA = record("model embeddings", model=TEXT, embeddings=MATRIX_SCHEMA, total_duration=INT, prompt_eval_count=INT)
TOKENIZE = record(content={"anyOf": [TEXT, MIXED]}, add_special=FLAG, parse_special=FLAG, with_pieces=FLAG)

# (methods, paths, what it does, body, answer, error)
# fmt: off
ENDPOINTS: tuple[tuple[str, str, str, dict[str, Any] | None, dict[str, Any], str], ...] = (
    ("post", "/embedding /embeddings", "Vectors of texts, rows of each", named("Embed"), named("Native"), "Error"),
    ("post", "/v1/embeddings", "Vectors of texts; asked for `content`, in the form of /embedding", named("Embed"),
     {"anyOf": [named("OpenAI"), named("Native")]}, "Error"),
    ("post", "/rerank /reranking /v1/rerank /v1/reranking", "Documents by score",
     named("Rerank"), named("Ranks"), "Error"),
    ("post", "/tokenize", "Token ids of a text", TOKENIZE,
     record("tokens", tokens=many({"anyOf": [INT, PIECE]})), "Error"),
    ("post", "/detokenize", "The text of token ids",
     record(tokens=many(INT)), record("content", content=TEXT), "Error"),
    ("get", "/health /v1/health", "Whether the server is ready", None, record("status", status=TEXT), "Error"),
    ("get", "/models /v1/models", "The model", None, record("models object data", data=many(ANY)), "Error"),
    ("get", "/props", "Properties", None, record("total_slots model_path refembed"), "Error"),
    ("get", "/status", "What the page at / shows", None, record("model pooling tokens"), "Error"),
    ("get", "/slots", "Slots", None, many(record("id n_ctx is_processing", id=INT, n_ctx=INT)), "Error"),
    ("get", "/lora-adapters", "Adapters", None, many(record("id path scale", id=INT, path=TEXT)), "Error"),
    ("post", "/api/embed", "Unit vectors of texts",
     record("input", model=TEXT, input={"anyOf": [TEXT, many(TEXT)]}, truncate=FLAG, dimensions=INT),
     OLLAMA, "OllamaError"),
    ("post", "/api/embeddings", "The raw vector of a prompt",
     record("prompt", model=TEXT, prompt=TEXT), record("embedding", embedding=many(NUMBER)), "OllamaError"),
    ("get", "/api/tags", "The model", None, record("models", models=many(ANY)), "OllamaError"),
    ("get", "/api/version", "The version", None, record("version", version=TEXT), "OllamaError"),
    ("post", "/embed /", "Vectors of texts", named("Tei"), MATRIX_SCHEMA, "TeiError"),
    ("post", "/embed_sparse", "Tokens and their weights", named("Tei"), many(many(SPARSE_VALUE)), "TeiError"),
    ("post", "/embed_all", "Vectors of tokens", named("Tei"), many(MATRIX_SCHEMA), "TeiError"),
    ("post", "/similarity", "Cosines", COMPARE, many(NUMBER), "TeiError"),
    ("get", "/info", "Limits", None, record("model_id max_input_length", model_id=TEXT), "TeiError"),
)
# fmt: on


def document(prefix: str = "") -> dict[str, Any]:
    """The document. prefix: what stands in front of every path."""
    paths: dict[str, dict[str, Any]] = {}
    for method, names, summary, body, answer, error in ENDPOINTS:
        for path in names.split():
            entry: dict[str, Any] = {"summary": summary}
            if body is not None:
                entry["requestBody"] = {"required": True, **content(body)}
            bad = {"description": "what is wrong", **content(named(error))}
            entry["responses"] = {"200": {"description": summary, **content(answer)}, "4XX": bad, "5XX": bad}
            paths[prefix + path] = {method: entry}
    key = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "refembed", "version": __version__},
        "paths": paths,
        "components": {"schemas": SCHEMAS, "securitySchemes": key},
        "security": [{}, {"key": []}],
    }


def content(schema: dict[str, Any]) -> dict[str, Any]:
    """A body of JSON."""
    return {"content": {"application/json": {"schema": schema}}}


async def serve(state: State, request: Request) -> Response:
    """GET /openapi.json."""
    return reply(document(state.settings.api_prefix))
