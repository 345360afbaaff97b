"""The server's endpoints as a page: its own OpenAPI document, read by a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refembed.server.openapi import document

FAMILIES = (  # title, and how a summary's endpoint is known
    ("llama-server and OpenAI", "Error"),
    ("Ollama", "OllamaError"),
    ("Text Embeddings Inference", "TeiError"),
)


def spelled(schema: dict[str, Any]) -> str:
    """A schema in a few characters: `[number]`, `string or [integer]`, a link to a named one."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        kinds = [kind for kind in schema.get(key, []) if kind.keys() != {"required"}]
        if kinds:
            return " or ".join(dict.fromkeys(spelled(kind) for kind in kinds))
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if schema.get("type") == "array":
        return f"list of ({spelled(schema['items'])})" if schema["items"] else "list"
    if schema.get("properties"):
        return "{" + ", ".join(fields(schema)) + "}"
    least = f" of at least {schema['minimum']}" if "minimum" in schema else ""
    return schema.get("type", "anything") + least


def fields(schema: dict[str, Any]) -> Iterator[str]:
    """Each field of an object, as its schema has it."""
    for name, inner in schema["properties"].items():
        yield f"`{name}`{'' if name in schema.get('required', ()) else '?'}: {spelled(inner)}"


def table(schema: dict[str, Any]) -> Iterator[str]:
    """The fields of an object, a row each; any other schema as a line."""
    properties = schema.get("properties")
    if not properties:
        yield from (spelled(schema), "")
        return
    yield from ("| field | | what |", "|---|---|---|")
    for name, inner in properties.items():
        needed = "required" if name in schema.get("required", ()) else ""
        yield f"| `{name}` | {needed} | {spelled(inner)} |"
    yield ""
    either = [r["required"][0] for r in schema.get("anyOf", []) if r.keys() == {"required"}]
    if either:
        yield from (f"At least one of {', '.join(f'`{name}`' for name in either)}.", "")


def body_of(content: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body."""
    schema: dict[str, Any] = content["content"]["application/json"]["schema"]
    return schema


def endpoints(doc: dict[str, Any], error: str) -> Iterator[str]:
    """The endpoints whose errors have that form; those that do the same are one entry."""
    groups: dict[str, tuple[str, list[str], dict[str, Any]]] = {}
    for path, methods in doc["paths"].items():
        for method, entry in methods.items():
            if body_of(entry["responses"]["4XX"])["$ref"].endswith(f"/{error}"):
                key = json.dumps([method, entry])
                groups.setdefault(key, (method, [], entry))[1].append(path)
    for method, paths, entry in groups.values():
        yield from (f"### {method.upper()} {paths[0]}", "", f"{entry['summary']}.", "")
        if paths[1:]:
            yield from (f"The same: {', '.join(f'`{path}`' for path in paths[1:])}.", "")
        if "requestBody" in entry:
            yield from ("Takes:", "", *table(body_of(entry["requestBody"])))
        yield from ("Gives:", "", *table(body_of(entry["responses"]["200"])))


def page() -> str:
    """Markdown."""
    doc = document()
    lines = [
        "# The server's endpoints", "",
        f"Made of the document that a running `refembed serve` answers at `/openapi.json` (OpenAPI {doc['openapi']}): "
        "{download}`openapi.json`. [What each endpoint means, and where it differs from the program that it stands in "
        "for](../../server.md). A question mark stands behind a field that may be missing.", "",
    ]  # fmt: skip
    for title, error in FAMILIES:
        lines += [f"## {title}", "", *endpoints(doc, error)]
    lines += ["## Schemas", ""]
    for name, schema in doc["components"]["schemas"].items():
        lines += [f"### {name}", ""]
        if "description" in schema:
            lines += [f"{schema['description']}.", ""]
        lines += list(table(schema))
    return "\n".join(lines)


def write(folder: Path) -> None:
    """index.md, and the document next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.md").write_text(page(), encoding="utf-8")
    (folder / "openapi.json").write_text(json.dumps(document(), indent=2), encoding="utf-8")
