"""JSON in and out, and the values in it as llama-server's library (nlohmann::json) takes them.

Bodies are read by orjson, which is strict and fast. Its message names what is wrong, line and column; nlohmann's words
differ (docs/server.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from refembed.server.errors import ApiError

MAX_INT, MIN_INT = 2**64, -(2**63)  # beyond, nlohmann::json makes a float of an integer


def loads(body: bytes | bytearray | memoryview) -> Any:
    """The value that a body holds. ApiError 400 where it is not JSON; MemoryError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as e:
        if "memory" in str(e):
            raise MemoryError from None
        raise ApiError(f"the body is not JSON: {e}") from None


def dumps(value: Any) -> bytes:
    """As compact as llama-server writes it: no spaces, no escapes beyond those that must be; bad UTF-8 replaced."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def array(items: Iterator[bytes]) -> Iterator[bytes]:
    """A JSON array, piece by piece: `[`, items that are JSON already, `]`."""
    yield b"["
    for i, item in enumerate(items):
        yield b"," + item if i else item
    yield b"]"


def type_name(value: Any) -> str:
    """What nlohmann::json calls a value's type."""
    names = ((type(None), "null"), (bool, "boolean"), (str, "string"), (dict, "object"), (list, "array"))
    return next((name for kind, name in names if isinstance(value, kind)), "number")


def is_integer(value: Any) -> bool:
    """Whether nlohmann::json holds this as an integer."""
    return isinstance(value, int) and not isinstance(value, bool) and MIN_INT <= value < MAX_INT


def wrong_type(wanted: str, value: Any) -> ApiError:
    """What `value.get<T>()` throws."""
    return ApiError(f"[json.exception.type_error.302] type must be {wanted}, but is {type_name(value)}")


def to_string(value: Any) -> str:
    """`get<std::string>()`."""
    if not isinstance(value, str):
        raise wrong_type("string", value)
    return value


def to_int(value: Any) -> int:
    """`get<int>()`: true is 1, fractions are cut off. A number that does not fit stays as it is."""
    if not isinstance(value, (int, float)):
        raise wrong_type("number", value)
    return int(value)


def field(body: Any, key: str, default: Any) -> Any:
    """`json_value(body, key, default)`: the default where the key is absent, null or of another type.

    A number may be given as true or false, which are 1 and 0, but no number is a truth.
    """
    value = body.get(key) if isinstance(body, dict) else None
    if isinstance(default, bool):
        same = isinstance(value, bool)
    elif isinstance(default, int):
        same = isinstance(value, (int, float))
        value = int(value) if same and value is not None else value
    else:
        same = isinstance(value, type(default))
    return value if same else default
