"""refembed: the Python reference implementation of GGUF text embeddings.

    >>> from refembed import Embedder
    >>> e = Embedder.load("model.gguf")            # doctest: +SKIP
    >>> e.embed(["Hello, world!"])                 # doctest: +SKIP

Names are loaded when first used, so that `import refembed` costs little.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from refembed._version import __version__

if TYPE_CHECKING:
    from refembed.embedder import Embedder
    from refembed.errors import DownloadError, EngineError, GGUFError, ModelError, RefembedError, RequestError
    from refembed.gguf import open_gguf
    from refembed.model.trace import Trace
    from refembed.normalize import normalize
    from refembed.pooling import pool
    from refembed.similarity import cosine, dot, euclidean, manhattan
    from refembed.tokenizer import load_tokenizer

__all__ = [
    "DownloadError",
    "Embedder",
    "EngineError",
    "GGUFError",
    "ModelError",
    "RefembedError",
    "RequestError",
    "Trace",
    "__version__",
    "cosine",
    "dot",
    "euclidean",
    "load_tokenizer",
    "manhattan",
    "normalize",
    "open_gguf",
    "pool",
]

HOMES = {
    "Embedder": "embedder",
    "Trace": "model.trace",
    "load_tokenizer": "tokenizer",
    "normalize": "normalize",
    "open_gguf": "gguf",
    "pool": "pooling",
    **dict.fromkeys(("cosine", "dot", "euclidean", "manhattan"), "similarity"),
    **dict.fromkeys((n for n in __all__ if n.endswith("Error")), "errors"),
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'refembed' has no attribute {name!r}")
    return getattr(importlib.import_module(f"refembed.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class Package(ModuleType):
    """This package, in which `normalize` is the function, though a module of that name is imported beneath it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "normalize" and isinstance(value, ModuleType):  # the import system announces a submodule
            value = value.normalize
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = Package
