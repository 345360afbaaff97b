"""As much of JSON Schema (draft 2020-12) as `schema.json` uses, so that checking the cases needs no further package."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
KEYWORDS = {
    *("$schema", "$id", "$defs", "$ref", "title", "description", "type", "enum", "pattern", "minLength", "maxLength"),
    *("minimum", "required", "properties", "additionalProperties", "items", "prefixItems", "minItems", "maxItems"),
    *("uniqueItems", "oneOf"),
}


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "") -> Iterator[str]:
    """What is wrong with a value, one line each: where, and what.

    root  the schema that `#/$defs/...` refers to
    """
    unknown = set(schema) - KEYWORDS
    if unknown:
        raise ValueError(f"schema.json uses {sorted(unknown)}, which this checker does not know")
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    want = schema.get("type")
    if want and (not isinstance(value, TYPES[want]) or (isinstance(value, bool) and want != "boolean")):
        yield f"{at or 'the file'}: {want} expected, found {json.dumps(value)[:60]}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if isinstance(value, str):
        yield from string_faults(value, schema, at)
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{at}: {value} is less than {schema['minimum']}"
    if isinstance(value, dict):
        yield from object_faults(value, schema, root, at)
    if isinstance(value, list):
        yield from array_faults(value, schema, root, at)
    if "oneOf" in schema:
        fits = sum(not list(faults(value, one, root, at)) for one in schema["oneOf"])
        if fits != 1:
            yield f"{at}: fits {fits} of the alternatives, not one"


def string_faults(value: str, schema: dict[str, Any], at: str) -> Iterator[str]:
    """Faults of a string."""
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{at}: {value!r} does not match {schema['pattern']}"
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{at}: {len(value)} characters are too few or too many"


def object_faults(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    """Faults of an object and of its properties."""
    properties = schema.get("properties", {})
    yield from (f"{at}: {name!r} is missing" for name in schema.get("required", []) if name not in value)
    if schema.get("additionalProperties") is False:
        yield from (f"{at}: {name!r} is not a known property" for name in value if name not in properties)
    for name, one in value.items():
        if name in properties:
            yield from faults(one, properties[name], root, f"{at}/{name}")


def array_faults(value: list[Any], schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    """Faults of an array and of its elements."""
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{at}: {len(value)} elements are too few or too many"
    if schema.get("uniqueItems") and len({json.dumps(v, sort_keys=True) for v in value}) < len(value):
        yield f"{at}: an element occurs twice"
    first = schema.get("prefixItems", [])
    for i, one in enumerate(value):
        inner = first[i] if i < len(first) else schema.get("items", {})
        yield from faults(one, inner, root, f"{at}/{i}")
