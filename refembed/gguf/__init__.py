"""GGUF: bytes -> metadata and raw tensors, and back. No math.

    cursor    bounds-checked reads          strings   lazy arrays of strings
    metadata  keys and values               quants    ONE table of tensor types
    tensor    tensor table, mapped data     reader    the file as a whole
    split     a model in several files      writer    the way back

The format: ggml/include/gguf.h of llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refembed.gguf.metadata import Metadata
from refembed.gguf.quants import BY_ID, BY_NAME, QUANT_TYPES, QuantType
from refembed.gguf.reader import GGUFFile
from refembed.gguf.split import open_gguf
from refembed.gguf.strings import StringArray
from refembed.gguf.tensor import Tensor

if TYPE_CHECKING:
    from refembed.gguf.writer import GGUFWriter

__all__ = [
    "BY_ID",
    "BY_NAME",
    "QUANT_TYPES",
    "GGUFFile",
    "GGUFWriter",
    "Metadata",
    "QuantType",
    "StringArray",
    "Tensor",
    "open_gguf",
]


def __getattr__(name: str) -> Any:
    """GGUFWriter, which readers do without."""
    if name != "GGUFWriter":
        raise AttributeError(f"module 'refembed.gguf' has no attribute {name!r}")
    from refembed.gguf.writer import GGUFWriter

    return GGUFWriter
