"""refembed: text embeddings from GGUF files, computed as llama.cpp computes them.

Embedder is the way in:

    from refembed import Embedder

    e = Embedder.load("minilm")           # a name, "model.gguf", or a folder as Hugging Face publishes them
    e.embed("Hello, world!")              # one text: float32 (D,), of length 1
    e.embed(["a cat", "a dog"])           # S texts: (S, D)

    Embedder.load        open a model                        Embedder.rerank    how well documents answer a query
    Embedder.embed       vectors of texts                    Embedder.tokenize  token ids of a text
    Embedder.embed_iter  vectors of a stream of texts        Embedder.trace     every tensor of a text's run, a Trace

`load_tokenizer` and `open_gguf` open the tokenizer and the file alone; `pool` and `normalize` are the last
two steps by themselves; `cosine`, `dot`, `euclidean` and `manhattan` compare vectors. `refembed.chunk` cuts long texts
into pieces, `refembed.evaluate` measures retrieval.

Every error is a RefembedError and says what to try (`hint`): RequestError is the input's fault, TooLongError a text of
too many tokens, GGUFError the file's, ModelError a model that refembed cannot run, DownloadError one that cannot be
fetched, EngineError another engine's.

Names are loaded when first used, so that `import refembed` costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from refembed._version import __version__

if TYPE_CHECKING:
    from refembed.embedder import Embedder
    from refembed.errors import DownloadError as DownloadError
    from refembed.errors import EngineError as EngineError
    from refembed.errors import GGUFError as GGUFError
    from refembed.errors import ModelError as ModelError
    from refembed.errors import RefembedError as RefembedError
    from refembed.errors import RequestError as RequestError
    from refembed.errors import TooLongError as TooLongError
    from refembed.model.trace import Trace
    from refembed.pipeline.opening import load_tokenizer, open_gguf
    from refembed.pooling.normalize import normalize
    from refembed.pooling.poolers import pool
    from refembed.similarity import cosine, dot, euclidean, manhattan

__all__ = [  # what help() shows, and in that order of importance: the errors are in the text above
    "Embedder",
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
ERRORS = (
    "DownloadError", "EngineError", "GGUFError", "ModelError", "RefembedError", "RequestError", "TooLongError",
)  # fmt: skip

HOMES = {
    "Embedder": "embedder",
    "Trace": "model.trace",
    "load_tokenizer": "pipeline.opening",
    "normalize": "pooling.normalize",
    "open_gguf": "pipeline.opening",
    "pool": "pooling",
    **dict.fromkeys(("cosine", "dot", "euclidean", "manhattan"), "similarity"),
    **dict.fromkeys(ERRORS, "errors"),
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'refembed' has no attribute {name!r}")
    return getattr(importlib.import_module(f"refembed.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *ERRORS})
