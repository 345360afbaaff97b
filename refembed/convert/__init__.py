"""Hugging Face folders to GGUF, and one GGUF type to another. `convert` is in `folder`, imported when it is asked
for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refembed.convert.folder import convert

__all__ = ["convert"]


def __getattr__(name: str) -> Any:
    if name != "convert":
        raise AttributeError(f"module 'refembed.convert' has no attribute {name!r}")
    from refembed.convert.folder import convert

    return convert
