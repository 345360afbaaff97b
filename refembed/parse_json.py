"""JSON that other programs wrote, parsed in one place: config files, archives, answers of servers."""

from __future__ import annotations

import json
from typing import Any


def parse_json(data: bytes | str, **hooks: Any) -> Any:
    """The value of a JSON text; hooks are those of `json.loads`.

    Raises ValueError for anything that is no JSON: bad UTF-8, bad syntax, arrays nested too deep for the parser, an
    integer of more digits than Python converts.

    >>> parse_json(b'{"pooling_mode": ["cls", "mean"]}')
    {'pooling_mode': ['cls', 'mean']}
    """
    try:
        return json.loads(data, **hooks)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_object(data: bytes | str, **hooks: Any) -> dict[str, Any]:
    """The JSON object of a text, as `parse_json` takes it. ValueError where it is no JSON, or another kind of value.

    >>> parse_object("[1, 2]")
    Traceback (most recent call last):
    ValueError: a list, where a JSON object belongs
    """
    value = parse_json(data, **hooks)
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, where a JSON object belongs")
    return value
